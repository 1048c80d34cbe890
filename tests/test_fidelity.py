"""What LLaMA-Factory tokenises from a subset is what it tokenises from the same rows of the pool.

Both go through its own loader, converters, template and processors. The shapes are those of its local demo datasets,
with other rows, and those of rows that were once read otherwise.
"""

import csv
import datetime
import json
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mig_selector.pipeline.recipe import run_selection


pytestmark = [pytest.mark.llamafactory, pytest.mark.slow]

COUNT = 12
CHOSEN = 5
OPENAI_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
}
SPECIAL_TOKENS = ["<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folder of a tokenizer of bytes, with the processor of a model that sees images and videos."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

    folder = tmp_path_factory.mktemp("model")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_only = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytes_only,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL_TOKENS,
    )
    parts = {"image_processor": Qwen2VLImageProcessor(), "video_processor": Qwen2VLVideoProcessor()}
    Qwen2VLProcessor(tokenizer=tokenizer, chat_template="-", **parts).save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "qwen2_vl"}')
    return str(folder)


@pytest.fixture(scope="module")
def tokens(model):
    """The host's tokenizer and processor."""
    from llamafactory.hparams import ModelArguments
    from llamafactory.model import load_tokenizer

    return load_tokenizer(ModelArguments(model_name_or_path=model, image_max_pixels=28 * 28 * 16))


@pytest.fixture
def host(tokens, tmp_path):
    """A function that tokenises a dataset as LLaMA-Factory does, and returns its rows for training or evaluation."""
    from datasets import disable_progress_bars
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments, ModelArguments
    from transformers import Seq2SeqTrainingArguments

    disable_progress_bars()
    training = Seq2SeqTrainingArguments(output_dir=str(tmp_path / "out"), report_to="none", use_cpu=True)

    def tokenise(stage, dataset, dataset_dir, media_dir=None, part="train_dataset", **keys):
        data = DataArguments(
            template="qwen2_vl",
            dataset=dataset,
            dataset_dir=str(dataset_dir),
            media_dir=str(media_dir or dataset_dir),
            cutoff_len=2_048,
            packing=False,
            overwrite_cache=True,
            **keys,
        )
        template = get_template_and_fix_tokenizer(tokens["tokenizer"], data)
        where = ModelArguments(model_name_or_path="-", cache_dir=str(tmp_path / "cache"))
        found = get_dataset(template, where, data, training, stage, **tokens)[part]
        kept = [column for column in found.column_names if not column.startswith("kl_")]  # KTO: from the row before
        return found.select_columns(kept).with_format("arrow")[:].to_pylist()

    return tokenise


def rating(row):
    """The chosen rows are neither the first ones nor in the order of the pool."""
    return (row * 7 + 3) % COUNT


@pytest.fixture
def compare(host, tmp_path):
    """A function that selects from a pool, and compares what the host makes of the pool and of the subset."""
    data = tmp_path / "data"
    data.mkdir()

    def check(entry, stage, write, rows, like=None, **keys):
        """Select from `rows`; the host reads `like` in their place, where it cannot read all that is in them."""
        rated = [{**row, "rating": rating(number)} for number, row in enumerate(rows)]
        entries = {"pool": {**entry, "file_name": write(data / "pool", rated)}}
        if like:
            entries["like"] = {**entry, "file_name": as_lines(data / "like", like)}
        (data / "dataset_info.json").write_text(json.dumps(entries))
        settings = {"dataset": "pool", "dataset_dir": str(data), "mig_method": "top_score", "mig_score": "rating"}
        stage_key = {"rm": "dpo"}.get(stage, stage)
        [outcome] = run_selection({**settings, "stage": stage_key, "mig_num_samples": CHOSEN, **keys})
        chosen = pq.read_table(f"{outcome.folder}/selection.parquet")["row_index"].to_pylist()
        assert chosen == sorted(range(len(rows)), key=rating, reverse=True)[:CHOSEN]
        pool = host(stage, "like" if like else "pool", data)
        assert len(pool) == len(rows)
        subset = host(stage, **outcome.settings)
        assert subset == [pool[row] for row in chosen]
        [described] = json.loads((Path(outcome.folder) / "manifest.json").read_text())["subsets"]
        folder = Path(outcome.folder)
        return SimpleNamespace(**{**described, "rows": subset, "chosen": chosen, "file": folder / described["file"]})

    return check


def as_lines(path, rows):
    path.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"{path.name}.jsonl"


def as_array(path, rows):
    path.with_suffix(".json").write_text(json.dumps(rows, indent=1))
    return f"{path.name}.json"


def as_parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path.with_suffix(".parquet"), row_group_size=5)
    return f"{path.name}.parquet"


def as_arrow(path, rows):
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(path.with_suffix(".arrow")), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)
    return f"{path.name}.arrow"


def as_csv(path, rows):
    with path.with_suffix(".csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return f"{path.name}.csv"


TEXT_FILES = [as_lines, as_array, as_parquet, as_arrow]


def alpaca(number, **more):
    return {"instruction": f"Add {number} and 1.", "input": "", "output": f"It is {number + 1}.", **more}


def talk(number, role="from", content="value", user="human", assistant="gpt"):
    """Two or four messages."""
    texts = [f"Say {number}.", f"{number}!", "Once more.", f"{number}, {number}!"][: 2 + number % 2 * 2]
    return [{role: (user, assistant)[turn % 2], content: text} for turn, text in enumerate(texts)]


def openai_talk(number):
    return talk(number, "role", "content", "user", "assistant")


ALPACA_COLUMNS = {"prompt": "instruction", "query": "input", "response": "output"}
SHAREGPT_OPENAI = {"formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": OPENAI_TAGS}
TOOLS = json.dumps([{"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {}}}])
CALL = json.dumps({"name": "add", "arguments": {"a": 1, "b": 2}})


def with_tool(number):
    """As in glaive_toolcall_en_demo: a question, a call, what the tool says, an answer."""
    said = [("human", f"Add {number}."), ("function_call", CALL), ("observation", "3"), ("gpt", "It is 3.")]
    return [{"from": role, "value": text} for role, text in (said if number % 3 else [said[0], said[3]])]


SHAPES = {
    "alpaca_en_demo": ({}, "sft", [alpaca(number, input=str(number) * (number % 2)) for number in range(COUNT)]),
    "alpaca without defaults": (
        {"columns": ALPACA_COLUMNS},
        "sft",
        [alpaca(number, input=None if number % 3 else f"by {number}") for number in range(COUNT)],
    ),
    "alpaca with system and history": (
        {"columns": {**ALPACA_COLUMNS, "system": "system", "history": "history"}},
        "sft",
        [
            alpaca(
                number, system="Be brief." if number % 3 else None, history=[["Hi", "Ho"], ["a", "b"]][: number % 3]
            )
            for number in range(COUNT)
        ],
    ),
    "sharegpt": ({"formatting": "sharegpt"}, "sft", [{"conversations": talk(number)} for number in range(COUNT)]),
    "sharegpt with system": (
        {"formatting": "sharegpt", "columns": {"messages": "conversations", "system": "system"}},
        "sft",
        [{"conversations": talk(number), "system": f"You are {number}."} for number in range(COUNT)],
    ),
    "glaive_toolcall_en_demo": (
        {"formatting": "sharegpt", "columns": {"messages": "conversations", "tools": "tools"}},
        "sft",
        [{"conversations": with_tool(number), "tools": TOOLS if number % 3 else "[]"} for number in range(COUNT)],
    ),
    "roles in messages": (
        SHAREGPT_OPENAI,
        "sft",
        [
            {"messages": [{"role": "system", "content": "Rhyme."}][: number % 2] + openai_talk(number), "id": number}
            for number in range(COUNT)
        ],
    ),
    "openai": (
        {**SHAREGPT_OPENAI, "formatting": "openai"},
        "sft",
        [{"messages": openai_talk(n)} for n in range(COUNT)],
    ),
    "c4_demo": ({"columns": {"prompt": "text"}}, "pt", [{"text": f"Once {n}.", "url": "-"} for n in range(COUNT)]),
    "dpo alpaca": (
        {"ranking": True, "columns": {**ALPACA_COLUMNS, "response": None, "chosen": "chosen", "rejected": "rejected"}},
        "rm",
        [{"instruction": f"Q{n}", "input": "", "chosen": f"{n}", "rejected": f"-{n}"} for n in range(COUNT)],
    ),
    "dpo_en_demo": (
        {
            "ranking": True,
            "formatting": "sharegpt",
            "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"},
        },
        "rm",
        [
            {
                "conversations": talk(number)[:-1],
                "chosen": {"from": "gpt", "value": f"yes {number}"},
                "rejected": {"from": "gpt", "value": f"no {number}"},
            }
            for number in range(COUNT)
        ],
    ),
    "kto_en_demo": (
        {**SHAREGPT_OPENAI, "columns": {"messages": "messages", "kto_tag": "label"}},
        "kto",
        [{"messages": openai_talk(number), "label": number % 3 > 0} for number in range(COUNT)],
    ),
    "kto alpaca": (
        {"columns": {**ALPACA_COLUMNS, "kto_tag": "good"}},
        "kto",
        [alpaca(number, good=number % 3 > 0) for number in range(COUNT)],
    ),
}


@pytest.mark.parametrize(
    ("shape", "keys"),
    [
        *((shape, {}) for shape in SHAPES),
        ("sharegpt", {"train_on_prompt": True}),
        ("sharegpt", {"mask_history": True}),
    ],
)
def test_a_budget_of_tokens_counts_what_the_host_feeds(host, model, tmp_path, shape, keys):
    entry, stage, rows = SHAPES[shape]
    data = tmp_path / "data"
    data.mkdir()
    rows = [{**row, "rating": rating(number)} for number, row in enumerate(rows)]
    entries = {"pool": {**entry, "file_name": as_lines(data / "pool", rows)}}
    (data / "dataset_info.json").write_text(json.dumps(entries))
    fed = host(stage, "pool", data, **keys)
    counts = [sum(len(ids) for key, ids in row.items() if key.endswith("input_ids")) for row in fed]
    labels = [[label for key, ids in row.items() if key.endswith("labels") for label in ids] for row in fed]
    chosen, left = [], sum(counts) // 2
    for row in sorted(range(COUNT), key=rating, reverse=True):
        if counts[row] <= left:
            chosen.append(row)
            left -= counts[row]
    settings = {"dataset": "pool", "dataset_dir": str(data), "mig_method": "top_score", "mig_score": "rating"}
    tokenizing = {"model_name_or_path": model, "template": "qwen2_vl", "cutoff_len": 2_048, **keys}
    stage_key = {"rm": "dpo"}.get(stage, stage)
    budget = {"stage": stage_key, "mig_num_tokens": sum(counts) // 2}
    [outcome] = run_selection({**settings, **tokenizing, **budget})
    table = pq.read_table(f"{outcome.folder}/selection.parquet")
    assert table["row_index"].to_pylist() == chosen
    assert table["tokens"].to_pylist() == [counts[row] for row in chosen]
    known = json.loads((Path(outcome.folder) / "manifest.json").read_text())["token_budget"]
    spent = sum(counts) // 2 - left
    supervised = sum(label != -100 for row in chosen for label in labels[row]) if any(labels) else spent
    assert known == {"budget": sum(counts) // 2, "fed": spent, "supervised": supervised}
    [again] = run_selection({**settings, **tokenizing, **budget})
    assert f"training is fed {spent:,} tokens, {supervised:,} of them with a loss" in again.summary


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("write", [as_lines, as_parquet], ids=["jsonl", "parquet"])
def test_the_shapes_of_the_demo_datasets_are_tokenised_alike(compare, shape, write):
    entry, stage, rows = SHAPES[shape]
    compare(entry, stage, write, rows)


@pytest.mark.parametrize("shape", ["alpaca with system and history", "glaive_toolcall_en_demo", "dpo_en_demo"])
@pytest.mark.parametrize("write", [as_array, as_arrow], ids=["json", "arrow"])
def test_other_files_are_tokenised_alike(compare, shape, write):
    entry, stage, rows = SHAPES[shape]
    compare(entry, stage, write, rows)


@pytest.mark.parametrize("shape", ["alpaca_en_demo", "alpaca without defaults", "c4_demo", "dpo alpaca", "kto alpaca"])
def test_csv_is_tokenised_alike(compare, shape):
    entry, stage, rows = SHAPES[shape]
    if stage == "pt" or shape == "dpo alpaca":
        rows = [{**row, **{key: f"{value} words" for key, value in row.items()}} for row in rows]
    elif shape == "alpaca_en_demo":  # numbers alone are not text to pandas, and the host stops
        rows = [{**row, "input": f"{row['input']} words" if row["input"] else "NA"} for row in rows]
    found = compare(entry, stage, as_csv, rows)
    if stage == "kto":
        assert {row["kto_tags"] for row in found.rows} == {True, False}


@pytest.mark.parametrize("write", [as_lines, as_array, as_parquet, as_arrow])
def test_what_a_subset_keeps_beside_is_not_seen_by_the_host(compare, write):
    rows = [alpaca(number, tags=["b", "a"][: 1 + number % 2], id=f"id{number}") for number in range(COUNT)]
    found = compare({}, "sft", write, rows, mig_keep="id,labels,score", mig_labels="tags")
    lines = [json.loads(line) for line in found.file.with_name("selected.jsonl").read_text().splitlines()]
    assert list(lines[0]) == ["instruction", "input", "output", "labels", "score", "_id"]
    assert [(line["labels"], line["score"], line["_id"]) for line in lines] == [
        (sorted(rows[row]["tags"]), rating(row), f"id{row}") for row in found.chosen
    ]
    assert list(found.columns.values()) == ["instruction", "input", "output"]


@pytest.mark.parametrize("shape", ["sharegpt with system", "kto alpaca"])
@pytest.mark.parametrize("write", [as_lines, as_parquet])
def test_the_host_evaluates_on_rows_that_were_not_chosen(host, tmp_path, write, shape):
    entry, stage, rows = SHAPES[shape]
    rows = [{**row, "rating": rating(number)} for number, row in enumerate(rows)]
    (tmp_path / "dataset_info.json").write_text(
        json.dumps({"pool": {**entry, "file_name": write(tmp_path / "pool", rows)}})
    )
    place = {"dataset": "pool", "dataset_dir": str(tmp_path), "stage": stage, "val_size": 3}
    keys = {"mig_method": "top_score", "mig_score": "rating", "mig_num_samples": CHOSEN, "mig_val_from": "rest"}
    [outcome] = run_selection({**place, **keys}, training=True)
    pool = host(stage, "pool", tmp_path)
    order = sorted(range(COUNT), key=rating, reverse=True)
    assert host(stage, **outcome.settings) == [pool[row] for row in order[:CHOSEN]]
    held_out = [pool.index(row) for row in host(stage, part="eval_dataset", **outcome.settings)]
    assert len(set(held_out)) == 3
    assert set(held_out) <= set(order[CHOSEN:])


DATES = [f"2021-03-{number + 1:02}" for number in range(COUNT)]
NO_DATE = "tomorrow"


@pytest.mark.parametrize("column", ["input", "output"])
@pytest.mark.parametrize("write", [as_array, as_parquet, as_lines, as_csv], ids=["json", "parquet", "jsonl", "csv"])
def test_text_that_consists_of_dates_stays_text(compare, column, write):
    dates = [date if rating(number) else NO_DATE for number, date in enumerate(DATES)]
    found = compare({}, "sft", write, [alpaca(number, **{column: date}) for number, date in enumerate(dates)])
    assert found.file.name == "selected.parquet"
    lines = [json.loads(line) for line in found.file.with_name("selected.jsonl").read_text().splitlines()]
    assert [line[column] for line in lines] == [dates[row] for row in found.chosen]


@pytest.mark.parametrize(
    ("stage", "entry", "make"),
    [
        ("sft", {"formatting": "sharegpt"}, lambda date: {"conversations": dated(date, date)}),
        ("rm", SHAPES["dpo_en_demo"][0], lambda date: {"conversations": dated("When?"), **dated_pair(date)}),
        ("sft", SHAPES["sharegpt with system"][0], lambda date: {"conversations": dated("Q", "A"), "system": date}),
        ("pt", {"columns": {"prompt": "text"}}, lambda date: {"text": f"{date} 10:00:00"}),
    ],
    ids=["messages", "ranked", "system", "pt"],
)
def test_dates_in_other_columns_stay_text(compare, stage, entry, make):
    rows = [make(date if rating(number) else NO_DATE) for number, date in enumerate(DATES)]
    assert compare(entry, stage, as_lines, rows).file.name == "selected.parquet"


def dated(*texts):
    return [{"from": ("human", "gpt")[turn], "value": text} for turn, text in enumerate(texts)]


def dated_pair(date):
    return {"chosen": {"from": "gpt", "value": date}, "rejected": {"from": "gpt", "value": date}}


NOON = datetime.datetime(2024, 1, 1, 12, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (NOON, pa.timestamp("us", "UTC")),
        (NOON.date(), pa.date32()),
        (Decimal("1.50"), pa.decimal128(10, 2)),
        (datetime.timedelta(seconds=1), pa.duration("us")),
        ([("a", "b")], pa.map_(pa.string(), pa.string())),
        (b"\0\xff", pa.binary()),
        (float("nan"), pa.float64()),
        (None, pa.null()),
        ([NOON], pa.list_(pa.timestamp("ns"))),
        ({"at": NOON}, pa.struct([("at", pa.timestamp("s"))])),
    ],
    ids=lambda value: str(value) if isinstance(value, pa.DataType) else "",
)
def test_keys_that_nobody_reads_may_hold_what_json_lacks(compare, value, kind):
    def write(path, rows):
        fields = [("role", pa.string()), ("content", pa.string()), ("extra", kind)]
        schema = pa.schema([("messages", pa.list_(pa.struct(fields))), ("rating", pa.int64())])
        pq.write_table(pa.Table.from_pylist(rows, schema), path.with_suffix(".parquet"))
        return f"{path.name}.parquet"

    plain = [{"messages": openai_talk(number)} for number in range(COUNT)]
    rows = [{"messages": [{**message, "extra": value} for message in row["messages"]]} for row in plain]
    found = compare(SHAREGPT_OPENAI, "sft", write, rows, like=plain if pa.types.is_map(kind) else None)
    assert found.file.name == "selected.parquet"
    assert found.null_in_json_lines == ([] if value is None else ["messages"])


@pytest.mark.parametrize("write", [as_lines, as_array], ids=["jsonl", "json"])
def test_nan_in_a_json_file_stops_nothing(compare, write):
    rows = [{"messages": [{**message, "weight": float("nan")} for message in openai_talk(n)]} for n in range(COUNT)]
    assert compare(SHAREGPT_OPENAI, "sft", write, rows).file.name == "selected.parquet"


def called(number, arguments):
    """A call of a tool as objects, which the host prints with all keys that it finds in the pool."""
    call = {"id": f"c{number}", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return [
        {"role": "user", "content": f"Do {number}."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "done", "tool_call_id": f"c{number}"},
        {"role": "assistant", "content": f"Did {number}."},
    ]


def tool(parameters):
    return [{"type": "function", "function": {"name": "f", "description": "Does.", "parameters": parameters}}]


OPENAI = {
    "formatting": "openai",
    "columns": {"messages": "messages", "tools": "tools"},
    "tags": {**OPENAI_TAGS, "observation_tag": "tool", "function_tag": "function"},
}
CITY, PLACE = {"city": "Oslo"}, {"latitude": 53.80396, "city": None, "at": {"day": "2021-03-01", "hours": [1, 2]}}
TOOL_ROWS = {
    "one set of keys": [(CITY, tool({"type": "object"}))] * COUNT,
    "keys of rows that are not chosen": [
        (CITY, tool(None)) if rating(number) > 2 else ({"unit": "K", "city": "Rome"}, tool({"type": "object"}))
        for number in range(COUNT)
    ],
    "another order of keys": [
        ({"b": 1, "a": "x"}, tool({"b": 1, "a": 2})) if rating(number) > 2 else ({"a": "y", "b": 2}, tool({"a": 3}))
        for number in range(COUNT)
    ],
    "nested, with floats": [
        (
            PLACE if number % 2 else {**PLACE, "at": {"hours": [], "day": NO_DATE}},
            tool({"p": {"x": 0.1}, "y": [1, None]}),
        )
        for number in range(COUNT)
    ],
    "no parameters": [({}, tool({"type": "object", "properties": {}, "required": []}))] * COUNT,
    "no tools": [(CITY, [])] * COUNT,
    "some tools": [(CITY, [None, [], tool({"a": 1})][number % 3]) for number in range(COUNT)],
    "numbers": [({"n": number if rating(number) > 2 else number + 0.5}, tool({"max": 5})) for number in range(COUNT)],
    "null throughout": [({"a": None}, tool({"properties": None}))] * COUNT,
}


@pytest.mark.parametrize("kind", TOOL_ROWS)
@pytest.mark.parametrize("write", [as_lines, as_array, as_arrow], ids=["jsonl", "json", "arrow"])
def test_objects_are_printed_with_the_keys_of_the_pool(compare, kind, write):
    rows = [{"messages": called(n, arguments), "tools": tools} for n, (arguments, tools) in enumerate(TOOL_ROWS[kind])]
    found = compare(OPENAI, "sft", write, rows)
    assert found.file.suffix == (".arrow" if kind == "no parameters" else ".parquet")


def test_tools_that_first_come_after_a_thousand_rows_are_printed(host, tmp_path):
    rows = [
        {"messages": openai_talk(0), "tools": tool({"a": 1}) if number == 1_200 else None, "rating": 2_000 - number}
        for number in range(1_210)
    ]
    (tmp_path / "dataset_info.json").write_text(json.dumps({"pool": {**OPENAI, "file_name": "pool.jsonl"}}))
    as_lines(tmp_path / "pool", rows)
    settings = {"dataset": "pool", "dataset_dir": str(tmp_path), "mig_method": "top_score", "mig_score": "rating"}
    [outcome] = run_selection({**settings, "mig_num_samples": 1_205})
    found = host("sft", **outcome.settings)
    assert len(found) == 1_205
    assert [len(row["input_ids"]) > len(found[0]["input_ids"]) for row in found] == [False] * 1_200 + [True] + [
        False
    ] * 4


@pytest.fixture
def pictures(tmp_path):
    """Twelve pictures in the dataset_dir, and their bytes."""
    from PIL import Image

    (tmp_path / "data" / "pictures").mkdir(parents=True, exist_ok=True)
    names = [f"pictures/{number}.png" for number in range(COUNT)]
    for number, name in enumerate(names):
        Image.new("RGB", (56 + 28 * (number % 3), 56), (20 * number, 0, 255)).save(tmp_path / "data" / name)
    return names, [(tmp_path / "data" / name).read_bytes() for name in names]


def shown(number, media, role="images"):
    """A row with media: as many placeholders as there are."""
    talk = [{"role": "user", "content": f"<{role[:-1]}>" * len(media) + f"What is {number}?"}]
    return {"messages": [*talk, {"role": "assistant", "content": f"It is {number}."}], role: media}


def media_entry(role="images"):
    return {"formatting": "sharegpt", "columns": {"messages": "messages", role: role}, "tags": OPENAI_TAGS}


@pytest.mark.parametrize("write", TEXT_FILES, ids=["jsonl", "json", "parquet", "arrow"])
@pytest.mark.parametrize("some", [False, True], ids=["all rows", "some rows"])
def test_images_by_path_are_tokenised_alike(compare, pictures, write, some):
    names, _ = pictures
    rows = [shown(number, [] if some and number % 2 else [name]) for number, name in enumerate(names)]
    found = compare(media_entry(), "sft", write, rows)
    assert any(row["images"] for row in found.rows)


@pytest.mark.parametrize("write", TEXT_FILES, ids=["jsonl", "json", "parquet", "arrow"])
@pytest.mark.parametrize("some", [False, True], ids=["all rows", "some rows"])
def test_images_as_objects_without_bytes_keep_both_keys(compare, pictures, write, some, tmp_path):
    names, _ = pictures
    paths = [str(tmp_path / "data" / name) for name in names]
    rows = [
        shown(number, [] if some and number % 2 else [{"bytes": None, "path": path}] * 2)
        for number, path in enumerate(paths)
    ]
    found = compare(media_entry(), "sft", write, rows)
    assert {frozenset(image) for row in found.rows for image in row["images"] or []} == {frozenset(["bytes", "path"])}


@pytest.mark.parametrize("write", [as_parquet, as_arrow], ids=["parquet", "arrow"])
@pytest.mark.parametrize("some", [False, True], ids=["all rows", "some rows"])
def test_images_as_bytes_are_tokenised_alike(compare, pictures, write, some):
    _, contents = pictures
    rows = [
        shown(
            number, [] if some and number % 2 else [{"bytes": content, "path": None}, {"bytes": content, "path": "x"}]
        )
        for number, content in enumerate(contents)
    ]
    found = compare(media_entry(), "sft", write, rows)
    assert found.file.name == "selected.parquet"
    assert found.null_in_json_lines == ["images"]
    assert {image["bytes"] for row in found.rows for image in row["images"] or []} <= set(contents)


def test_images_that_the_pool_declares_as_such_stay_images(compare, pictures):
    from datasets import Dataset, Features, Image, List, Value

    def write(path, rows):
        message = {"role": Value("string"), "content": Value("string")}
        kinds = {"messages": List(message), "images": List(Image()), "rating": Value("int64")}
        Dataset.from_list(rows, features=Features(kinds)).to_parquet(path.with_suffix(".parquet"))
        return f"{path.name}.parquet"

    _, contents = pictures
    rows = [shown(number, [{"bytes": content, "path": None}]) for number, content in enumerate(contents)]
    found = compare(media_entry(), "sft", write, rows)
    kinds = Features.from_arrow_schema(pq.read_schema(found.file))
    assert kinds["images"] == List(Image())


@pytest.mark.parametrize("as_bytes", [False, True])
def test_one_image_that_is_not_in_a_list_is_tokenised_alike(compare, pictures, as_bytes):
    media = [{"bytes": content, "path": name} if as_bytes else name for name, content in zip(*pictures, strict=True)]
    rows = [{**shown(number, [medium]), "images": medium} for number, medium in enumerate(media)]
    compare(media_entry(), "sft", as_parquet, rows)


@pytest.mark.parametrize("write", [as_lines, as_parquet], ids=["jsonl", "parquet"])
def test_videos_as_frames_are_tokenised_alike(compare, pictures, write):
    names, _ = pictures
    rows = [shown(number, [[name] * 4], "videos") for number, name in enumerate(names)]
    compare(media_entry("videos"), "sft", write, rows)


def test_two_pools_of_different_kinds_are_tokenised_alike(host, tmp_path):
    rows = [{"conversations": talk(number), "rating": rating(number)} for number in range(COUNT)]
    dated_rows = [alpaca(number, input=date, rating=rating(number) + 0.5) for number, date in enumerate(DATES)]
    as_parquet(tmp_path / "one", rows)
    as_array(tmp_path / "two", dated_rows)
    entries = {"one": {"file_name": "one.parquet", "formatting": "sharegpt"}, "two": {"file_name": "two.json"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(entries))
    settings = {"dataset": "one,two", "dataset_dir": str(tmp_path), "mig_method": "top_score", "mig_score": "rating"}
    [outcome] = run_selection({**settings, "mig_num_samples": CHOSEN})
    chosen = pq.read_table(f"{outcome.folder}/selection.parquet").to_pylist()
    pool = {name: host("sft", name, tmp_path) for name in entries}
    in_order = [row for name in entries for row in chosen if row["dataset"] == name]
    assert host("sft", **outcome.settings) == [pool[row["dataset"]][row["source_row"]] for row in in_order]
