"""Rows on which LLaMA-Factory cannot train use up no budget, whatever the method.

Its own loader, converters, template and processors read the pools and the subsets.
"""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from support import TAGS, write_vectors

from mig_selector.errors import ArgumentError, PoolError
from mig_selector.pipeline.comparison import compare_methods
from mig_selector.pipeline.recipe import run_selection


CASES = Path(__file__).parent / "data" / "cases"

pytestmark = [pytest.mark.llamafactory, pytest.mark.slow]


@pytest.fixture(scope="module")
def tokens(tiny_llama):
    """The host's tokenizer and processor."""
    from llamafactory.hparams import ModelArguments
    from llamafactory.model import load_tokenizer

    return load_tokenizer(ModelArguments(model_name_or_path=tiny_llama))


@pytest.fixture
def host(tokens, tmp_path):
    """A function that reads datasets as LLaMA-Factory does, and returns the texts it would train on."""
    from datasets import disable_progress_bars
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments, ModelArguments
    from transformers import Seq2SeqTrainingArguments

    disable_progress_bars()
    training = Seq2SeqTrainingArguments(output_dir=str(tmp_path / "out"), report_to="none", use_cpu=True)
    tokenizer = tokens["tokenizer"]

    def read(stage, dataset, dataset_dir, media_dir=None):
        del media_dir
        data = DataArguments(
            template="llama3",
            dataset=dataset,
            dataset_dir=str(dataset_dir),
            cutoff_len=512,
            packing=False,
            overwrite_cache=True,
        )
        template = get_template_and_fix_tokenizer(tokenizer, data)
        where = ModelArguments(model_name_or_path="-", cache_dir=str(tmp_path / "cache"))
        stage = {"dpo": "rm"}.get(stage, stage)
        rows = get_dataset(template, where, data, training, stage, **tokens)["train_dataset"]
        return [tokenizer.decode(row["chosen_input_ids" if stage == "rm" else "input_ids"]) for row in rows]

    return read


@pytest.fixture
def case(tmp_path, tiny_llama):
    """A function that copies a case, and returns its settings."""

    def settings(name):
        shutil.copytree(CASES / name, tmp_path / name)
        keys = yaml.safe_load((tmp_path / name / "cfg.yaml").read_text())
        return {**keys, "dataset_dir": str(tmp_path / name), "model_name_or_path": tiny_llama}

    return settings


def chosen_rows(outcome):
    return pq.read_table(Path(outcome.folder) / "selection.parquet")["row_index"].to_pylist()


def report_of(outcome):
    return json.loads((Path(outcome.folder) / "manifest.json").read_text())["rows"]


DISORDER = "turns that do not alternate between user and assistant, the user first"


@pytest.mark.parametrize(
    ("name", "dropped", "unreadable"),
    [
        ("untrainable-alpaca-null-output", {"no reply in output": 2}, {}),
        ("untrainable-assistant-first", {DISORDER: 2}, {}),
        (
            "untrainable-dpo-null-rejected",
            {"no pair of replies in chosen and rejected": 2},
            {},
        ),
        ("untrainable-no-messages", {"no messages in conversation": 2}, {}),
        ("untrainable-null-messages-skip", {}, {"conversation must be a list of messages": 2}),
        ("untrainable-odd-turns", {"an odd number of turns, so that the user speaks last": 2}, {}),
        ("untrainable-system-only", {"no messages of user and assistant": 2}, {}),
        ("untrainable-unknown-role", {"a role that is not one of the entry's tags": 2}, {}),
    ],
)
def test_only_rows_that_are_trained_on_are_chosen(case, host, name, dropped, unreadable):
    settings = case(name)
    [outcome] = run_selection(settings)
    assert chosen_rows(outcome) == [2, 3, 4]
    report = report_of(outcome)
    assert (report["read"], report["kept"]) == (6, 4)
    assert (report["dropped"], report["unreadable"]) == (dropped, unreadable)
    assert len(host(settings["stage"], **outcome.settings)) == 3


def test_an_odd_row_of_one_name_does_not_end_training_on_several(case, host):
    [outcome] = run_selection(case("untrainable-breaks-merge"))
    assert len(host("sft", **outcome.settings)) == 3
    assert 0 not in chosen_rows(outcome)
    assert report_of(outcome)["dropped"] == {"an odd number of turns, so that the user speaks last": 1}


def test_compared_methods_choose_from_the_same_conversations(case):
    compared = compare_methods(case("compare-skip"), ["top_score", "longest"])
    found = json.loads((Path(compared.folder) / "comparison.json").read_text())
    assert (found["kept_rows"], found["read_rows"]) == (4, 6)
    assert [method["rows"] for method in found["methods"]] == [3, 3]
    for method in found["methods"]:
        rows = pq.read_table(Path(method["folder"]) / "selection.parquet")["row_index"].to_pylist()
        assert set(rows) <= {2, 3, 4, 5}


# Siblings: one odd row beside sound ones, for each layout and stage

ALL_TAGS = {**TAGS, "observation_tag": "tool", "function_tag": "call"}
TALK = {"formatting": "sharegpt", "columns": {"messages": "talk", "system": "sys", "tools": "tools"}, "tags": ALL_TAGS}
OPENAI = {**TALK, "formatting": "openai"}
ALPACA = {"columns": {"prompt": "ask", "query": "input", "response": "output", "history": "past"}}
KTO = {"columns": {"prompt": "ask", "response": "output", "kto_tag": "good"}}
TALK_KTO = {**TALK, "columns": {"messages": "talk", "kto_tag": "good"}}
PAIRS = {"ranking": True, "columns": {"prompt": "ask", "chosen": "better", "rejected": "worse"}}
TALK_PAIRS = {**TALK, "ranking": True, "columns": {"messages": "talk", "chosen": "better", "rejected": "worse"}}
TEXTS = {"columns": {"prompt": "ask"}}
CALL = json.dumps({"name": "f", "arguments": {"x": 1}})
TOOLS = json.dumps([{"name": "f", "description": "", "parameters": {"type": "object", "properties": {}}}])


def talk(*turns):
    return [dict(zip(("role", "content"), turn, strict=True)) for turn in turns]


ASK, ANSWER = ("user", "question"), ("assistant", "answer")
CALLED = [ASK, ("call", CALL), ("tool", "1"), ANSWER]


def sound(number):
    """A row that is sound for every entry above, at its stage."""
    return {
        "talk": talk(ASK, ("assistant", f"answer {number}")),
        "sys": None,
        "tools": TOOLS if number == 1 else None,
        "ask": f"question {number}",
        "input": "",
        "output": f"answer {number}",
        "past": [["before", "then"]] if number == 1 else [],
        "good": number % 3 == 0,
        "better": {"role": "assistant", "content": "good"},
        "worse": {"role": "assistant", "content": "bad"},
    }


DROPPED, BAD, TRAINED = "dropped", "bad", "trained"
SIBLINGS = [
    (TALK, "sft", {"talk": talk(("system", "s"), ("assistant", "a"), ASK)}, DROPPED),
    (TALK, "sft", {"talk": talk(ASK, ("system", "s"))}, DROPPED),
    (TALK, "sft", {"talk": talk(ASK, ASK)}, DROPPED),
    (TALK, "sft", {"talk": talk(ASK, ANSWER, (None, "x"), ANSWER)}, DROPPED),
    (TALK, "sft", {"talk": talk(("tool", "1"), ("tool", "2"))}, DROPPED),
    (TALK, "sft", {"talk": talk(ASK, ("assistant", None), ASK)}, DROPPED),
    (TALK, "sft", {"talk": talk(ASK, ("assistant", None))}, BAD),
    (TALK, "sft", {"talk": talk((None, None), ANSWER)}, DROPPED),
    (TALK, "sft", {"talk": [None]}, BAD),
    (TALK, "sft", {"talk": None}, BAD),
    (TALK, "sft", {"talk": talk(ASK, ("call", "not JSON"))}, BAD),
    (TALK, "sft", {"talk": talk(ASK, ("call", '{"name": "f"}'))}, BAD),
    (TALK, "sft", {"talk": talk(*CALLED)}, TRAINED),
    (TALK, "sft", {"talk": talk(*CALLED[:3])}, DROPPED),
    (TALK, "sft", {"tools": "f(x)"}, BAD),
    (TALK, "sft", {"tools": json.dumps({"name": "f"})}, BAD),
    (TALK, "sft", {"tools": "[]", "sys": ""}, TRAINED),
    (TALK, "sft", {"talk": talk(("system", None), ASK, ANSWER)}, TRAINED),
    (TALK, "ppo", {"talk": talk(("system", "s"))}, DROPPED),
    (TALK, "pt", {"talk": talk(ASK)}, BAD),
    (TALK, "pt", {"talk": talk(ASK, ("assistant", None))}, TRAINED),
    (OPENAI, "sft", {"talk": talk(("stranger", "a"), ANSWER)}, BAD),
    (OPENAI, "sft", {"talk": talk(ASK, ASK)}, DROPPED),
    (OPENAI, "sft", {"talk": talk(ASK, ("assistant", None))}, BAD),
    (OPENAI, "sft", {"talk": talk(*CALLED)}, TRAINED),
    (OPENAI, "sft", {"talk": talk(ASK, ANSWER, ("tool", "left out"))}, TRAINED),
    (OPENAI, "sft", {"talk": talk(ASK, ("call", CALL), ("tool", None), ANSWER)}, BAD),
    (ALPACA, "sft", {"output": None}, DROPPED),
    (ALPACA, "sft", {"ask": None}, TRAINED),
    (ALPACA, "sft", {"past": [["a", "b", "c"]]}, BAD),
    (ALPACA, "sft", {"past": [["a", None]]}, BAD),
    (ALPACA, "ppo", {"output": None}, TRAINED),
    (TEXTS, "pt", {"ask": None}, TRAINED),
    (PAIRS, "dpo", {"better": None}, DROPPED),
    (PAIRS, "rm", {"worse": None}, DROPPED),
    (TALK_PAIRS, "dpo", {"worse": None}, DROPPED),
    (TALK_PAIRS, "dpo", {"talk": talk(ASK, ANSWER)}, DROPPED),
    (TALK_PAIRS, "dpo", {"better": {"role": "user", "content": "a"}}, TRAINED),
    (TALK_PAIRS, "dpo", {"better": {"role": "stranger", "content": "a"}}, BAD),
    (TALK_PAIRS, "dpo", {"worse": {"role": "assistant", "content": None}}, BAD),
    (KTO, "kto", {"good": None}, DROPPED),
    (KTO, "kto", {"good": True, "output": None}, TRAINED),
    (KTO, "kto", {"good": False, "output": None}, BAD),
    (TALK_KTO, "kto", {"good": None}, DROPPED),
    (TALK_KTO, "sft", {"good": True}, DROPPED),
]


def pool_of(entry, odd):
    """Six rows, the third and the fifth of which are odd, with the columns of the entry."""
    rows = []
    for number in range(6):
        row = sound(number)
        if entry.get("ranking"):
            row["talk"] = talk(ASK)
        if odd == {"good": True}:  # in stage sft the sound rows are those that are not for KTO
            row["good"] = None
        row |= odd if number in (2, 4) else {}
        if entry is PAIRS:
            row |= {name: row[name] and row[name]["content"] for name in ("better", "worse")}
        columns = {name: row[name] for name in row if name in entry["columns"].values()}
        rows.append({**columns, "rating": 9 - number})
    return rows


def as_lines(path, rows):
    path.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"{path.name}.jsonl"


def as_array(path, rows):
    path.with_suffix(".json").write_text(json.dumps(rows, indent=1))
    return f"{path.name}.json"


def as_parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path.with_suffix(".parquet"), row_group_size=4)
    return f"{path.name}.parquet"


def as_arrow(path, rows):
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(path.with_suffix(".arrow")), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return f"{path.name}.arrow"


def select(folder, file_name, entry, stage, **more):
    (folder / "dataset_info.json").write_text(json.dumps({"pool": {**entry, "file_name": file_name}}))
    keys = {"dataset": "pool", "dataset_dir": str(folder), "stage": stage, "mig_num_samples": 4}
    more = {"mig_method": "top_score", "mig_score": "rating", **more}
    return run_selection({**keys, **{key: value for key, value in more.items() if value is not None}})[0]


@pytest.mark.parametrize(
    ("entry", "stage", "odd", "fate"), SIBLINGS, ids=[f"{number}" for number in range(len(SIBLINGS))]
)
def test_a_row_is_treated_as_a_plain_run_would_treat_it(tmp_path, host, entry, stage, odd, fate):
    name = as_lines(tmp_path / "pool", pool_of(entry, odd))
    if fate == BAD:
        with pytest.raises(PoolError, match=r"pool\.jsonl:3: .* or set mig_on_bad_row: skip"):
            select(tmp_path, name, entry, stage)
    outcome = select(tmp_path, name, entry, stage, mig_on_bad_row="skip")
    assert chosen_rows(outcome) == ([0, 1, 2, 3] if fate == TRAINED else [0, 1, 3, 5])
    assert len(host(stage, **outcome.settings)) == 4
    if fate == BAD:
        with pytest.raises(Exception, match=r"."):  # it breaks in many ways
            host(stage, "pool", tmp_path)
    else:
        assert len(host(stage, "pool", tmp_path)) == (6 if fate == TRAINED else 4)


@pytest.mark.parametrize("write", [as_array, as_parquet, as_arrow])
@pytest.mark.parametrize(
    ("entry", "stage", "odd", "fate"), SIBLINGS, ids=[f"{number}" for number in range(len(SIBLINGS))]
)
def test_a_row_fares_alike_in_every_format(tmp_path, entry, stage, odd, fate, write):
    name = write(tmp_path / "pool", pool_of(entry, odd))
    if fate == BAD:
        with pytest.raises(PoolError, match=rf"{name}:\d+: .* or set mig_on_bad_row: skip"):
            select(tmp_path, name, entry, stage)
    outcome = select(tmp_path, name, entry, stage, mig_on_bad_row="skip")
    assert chosen_rows(outcome) == ([0, 1, 2, 3] if fate == TRAINED else [0, 1, 3, 5])
    report = report_of(outcome)
    assert (sum(report["dropped"].values()), sum(report["unreadable"].values())) == (
        2 * (fate == DROPPED),
        2 * (fate == BAD),
    )


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("random", {"mig_score": None}),
        ("top_score", {}),
        ("mig", {"mig_labels": "labels", "mig_min_label_count": 1}),
        ("instag", {"mig_labels": "labels", "mig_min_label_count": 1, "mig_score": None}),
    ],
)
def test_whatever_the_method_only_rows_that_are_trained_on_count(tmp_path, method, more):
    rows = pool_of(TALK, {"talk": talk(ASK, ASK)})
    name = as_lines(tmp_path / "pool", [{**row, "labels": [f"label {row['rating'] % 3}"]} for row in rows])
    write_vectors(tmp_path / "vectors.npz", ["label 0", "label 1", "label 2"])
    given = {"mig_label_embeddings": str(tmp_path / "vectors.npz")} if method == "mig" else {}
    outcome = select(tmp_path, name, TALK, "sft", mig_method=method, **given, **more)
    assert sorted(chosen_rows(outcome)) == [0, 1, 3, 5]
    with pytest.raises(ArgumentError, match="5 rows are asked for, but the pool has 4 rows to choose from"):
        select(tmp_path, name, TALK, "sft", mig_method=method, mig_num_samples=5, **given, **more)


@pytest.mark.parametrize(("entry", "stage"), [(PAIRS, "sft"), (PAIRS, "kto"), (ALPACA, "dpo"), (TALK, "rm")])
def test_a_stage_that_does_not_take_the_entry_is_refused_before_anything_is_read(tmp_path, entry, stage):
    with pytest.raises(ArgumentError, match=rf"dataset 'pool' .* ranking: true .* stage {stage}; set stage to"):
        select(tmp_path, "nothing.jsonl", entry, stage)
