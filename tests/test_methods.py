"""Every method by way of the whole recipe: what it is given, what it needs, what is kept and what is refused."""

import json
import math
import random
import re
import sys
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support import LABELS, SHAREGPT, make_row, make_rows, run_command

from mig_selector.annotation import scores
from mig_selector.errors import ArgumentError, EmbeddingError, PoolError
from mig_selector.pipeline import crew
from mig_selector.pipeline.annotate_pool import settings_to_annotate
from mig_selector.pipeline.needs import DEFAULT_LABELS
from mig_selector.pipeline.recipe import run_selection
from mig_selector.pool.reading import Pool


MANUAL = Path(__file__).resolve().parents[1] / "yaml_configs" / "README.md"


@pytest.fixture
def scored(workplace):
    """A pool of 40 rows that has everything every method may need but vectors."""
    rows = make_rows(40, seed=5)
    for place, row in enumerate(rows):
        row["dialogs"][1]["content"] = "word " * (place * 7 % 11 + 1)
        row["annotation"]["CaR"] = [place * 13 % 40 / 30 - 0.2]
        row["ifd_score"] = {"version": 100, "content": place * 17 % 40 / 32}
        deita = row["annotation"]["deita"]
        deita["quality_scores"] *= place % 3 + 1  # so many turns, each of the same score
        deita["complexity_scores"] *= place % 3 + 1
    workplace.add("pool", rows)
    workplace.rows = rows
    return workplace


@pytest.fixture
def vectors(tmp_path):
    """Vectors of 40 rows in 6 dimensions, some of which point nearly the same way."""
    found = np.random.default_rng(7).normal(size=(40, 6)).astype(np.float32)
    found[20:] = found[:20] + 0.05 * found[20:]
    np.save(tmp_path / "rows.npy", found)
    return tmp_path / "rows.npy"


def select(place, method, **more):
    return run_selection(place.settings(mig_method=method, **more))[0]


def table(outcome):
    return pq.read_table(Path(outcome.folder) / "selection.parquet").to_pydict()


def rows_of(outcome):
    return table(outcome)["row_index"]


def manifest(outcome):
    return json.loads((Path(outcome.folder) / "manifest.json").read_text())


def best_first(values):
    return sorted(range(len(values)), key=lambda row: (-values[row], row))


def deita_sums(rows):
    scores = [row["annotation"]["deita"] for row in rows]
    return [
        math.fsum(q * c for q, c in zip(one["quality_scores"], one["complexity_scores"], strict=True))
        for one in scores
    ]


def test_random_draws_as_python_does_and_invents_no_score(scored):
    outcome = select(scored, "random", mig_seed=7)
    found = table(outcome)
    assert found["row_index"] == random.Random(7).sample(range(40), 10)
    assert outcome.entries == {"pool": "pool_random_10"}
    for column in ("gain", "score", "labels"):
        assert found[column] == [None] * 10
    assert manifest(outcome)["information"] is None


def test_each_of_several_budgets_of_a_method_that_does_not_nest_is_its_own_run(scored):
    outcomes = run_selection(scored.settings(mig_method="random", mig_num_samples=[30, 5]))
    assert [rows_of(outcome) for outcome in outcomes] == [
        random.Random(42).sample(range(40), 30),
        random.Random(42).sample(range(40), 5),
    ]


def test_zip_compresses_the_rows_as_the_json_module_reads_them(scored):
    outcome = select(scored, "zip", mig_num_samples=1, mig_zip_k1=30, mig_zip_k2=1, mig_zip_k3=1)
    texts = [str([json.loads(line)]).encode() for line in (scored.data / "pool.jsonl").read_text().splitlines()]
    ratios = [np.float32(len(text) / len(zlib.compress(text, 9))) for text in texts]
    assert rows_of(outcome) == [min(range(40), key=lambda row: (ratios[row], row))]
    assert table(outcome)["gain"] == [float(min(ratios))]


def test_ifd_takes_the_highest_that_pass_the_filter(scored):
    values = [row["ifd_score"]["content"] for row in scored.rows]
    expected = [row for row in best_first(values) if 0 <= values[row] <= 1]
    assert rows_of(select(scored, "ifd")) == expected[:10]
    assert expected[0] == values.index(1.0)
    below = [row for row in expected if values[row] < 1]
    assert rows_of(select(scored, "ifd", mig_ifd_filter="superfiltering")) == below[:10]


def test_instag_takes_rows_that_bring_new_labels_and_needs_no_score(scored):
    for row in scored.rows:
        del row["annotation"]["deita"]
    scored.add("pool", scored.rows)
    sets = [set(row["annotation"]["instag"]["content"]) for row in scored.rows]
    left, expected = sorted(range(40), key=lambda row: (-len(sets[row]), row)), []
    while len(expected) < 25:
        seen = set()
        for row in list(left):
            if sets[row] - seen and len(expected) < 25:
                seen |= sets[row]
                expected.append(row)
                left.remove(row)
    assert rows_of(select(scored, "instag", mig_num_samples=25)) == expected


def naive_deita(scores, vectors, threshold):
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    kept = []
    for row in best_first(scores):
        if all(float(units[row] @ units[other]) <= threshold for other in kept):
            kept.append(row)
    return kept


def test_deita_adds_scores_up_over_turns_and_leaves_out_what_resembles(scored, vectors):
    given = {"mig_row_embeddings": str(vectors), "mig_deita_threshold": 0.95}
    scores, found = deita_sums(scored.rows), np.load(vectors).astype(np.float64)
    kept = naive_deita(scores, found, 0.95)
    assert 10 < len(kept) < 30
    outcome = select(scored, "deita", **given)
    assert rows_of(outcome) == kept[:10]
    assert table(outcome)["score"] == pytest.approx([scores[row] for row in kept[:10]], rel=1e-12)
    assert manifest(outcome)["settings"]["mig_deita_turns"] == "sum"
    means = [score / (row % 3 + 1) for row, score in enumerate(scores)]
    assert rows_of(select(scored, "deita", mig_deita_turns="mean", **given)) == naive_deita(means, found, 0.95)[:10]


def test_a_method_that_falls_short_is_an_error_or_filled_up_by_score(scored, vectors):
    given = {"mig_row_embeddings": str(vectors), "mig_deita_threshold": 0.95, "mig_num_samples": 38}
    scores = deita_sums(scored.rows)
    kept = naive_deita(scores, np.load(vectors).astype(np.float64), 0.95)
    with pytest.raises(ArgumentError, match=f"38 rows are asked for, but deita chooses only {len(kept)} of 40"):
        select(scored, "deita", **given)
    outcome = select(scored, "deita", mig_fill="top_score", **given)
    rest = [row for row in best_first(scores) if row not in kept]
    assert rows_of(outcome) == [*kept, *rest][:38]
    assert table(outcome)["gain"][len(kept) :] == [None] * (38 - len(kept))
    assert manifest(outcome)["rows_filled_by_score"] == 38 - len(kept)


def test_filling_up_instag_asks_for_scores_and_filling_up_random_does_not(scored):
    scored.rows[3]["annotation"].pop("deita")
    scored.add("pool", [*scored.rows, make_row(40, [], 9.0)])
    assert manifest(select(scored, "random", mig_fill="top_score"))["rows"]["kept"] == 41
    assert manifest(select(scored, "instag"))["rows"]["kept"] == 40
    assert manifest(select(scored, "instag", mig_fill="top_score"))["rows"]["kept"] == 39


def test_car_ranks_by_its_own_score_which_may_be_negative(scored, vectors):
    values = [row["annotation"]["CaR"][0] for row in scored.rows]
    outcome = select(scored, "car", mig_row_embeddings=str(vectors), mig_car_ratio="1:0", mig_num_samples=40)
    assert min(values) < 0
    assert rows_of(outcome) == best_first(values)
    assert table(outcome)["score"] == [values[row] for row in best_first(values)]
    assert manifest(outcome)["settings"]["mig_score"] == "annotation.CaR"


def test_qdit_weighs_quality_against_what_vectors_have_in_common(scored, vectors):
    units = np.load(vectors).astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    cosines = units @ units.T
    quality = [score / (row % 3 + 1) for row, score in enumerate(deita_sums(scored.rows))]
    chosen = []
    while len(chosen) < 8:
        held = cosines[:, chosen].max(axis=1).sum() if chosen else 0.0
        gains = {
            row: 0.3 * (cosines[:, [*chosen, row]].max(axis=1).sum() - held) + 0.7 * quality[row]
            for row in range(40)
            if row not in chosen
        }
        chosen.append(max(gains, key=gains.get))
    outcome = select(scored, "qdit", mig_row_embeddings=str(vectors), mig_num_samples=8)
    assert rows_of(outcome) == chosen


def test_plain_baselines_take_the_best_and_the_longest(scored, minilm):
    scores = [score / (row % 3 + 1) for row, score in enumerate(deita_sums(scored.rows))]
    assert rows_of(select(scored, "top_score")) == best_first(scores)[:10]
    words = [row["dialogs"][1]["content"].count("word") for row in scored.rows]
    outcome = select(scored, "longest", mig_tokenizer=minilm)
    assert rows_of(outcome) == best_first(words)[:10]
    assert table(outcome)["score"] == sorted(words, reverse=True)[:10]
    assert rows_of(select(scored, "longest", model_name_or_path=minilm)) == rows_of(outcome)
    assert rows_of(select(scored, "top_score", mig_score="response_tokens", mig_tokenizer=minilm)) == rows_of(outcome)
    with pytest.raises(ArgumentError, match="mig_tokenizer is missing"):
        select(scored, "longest")


def test_methods_that_read_texts_read_no_media(scored, minilm, monkeypatch):
    columns = {"messages": "dialogs", "system": "system", "images": "pictures", "videos": "films", "audios": "sounds"}
    for row in scored.rows:
        row |= {"system": "Be brief.", "pictures": [], "films": [], "sounds": []}
    scored.add("pool", scored.rows, **{**SHAREGPT, "columns": columns})
    asked = []
    read_rows = Pool.rows
    monkeypatch.setattr(
        Pool, "rows", lambda pool, columns, *more: asked.append(columns) or read_rows(pool, columns, *more)
    )
    select(scored, "longest", mig_tokenizer=minilm)
    assert asked == [["dialogs", "system"]]


def test_what_is_kept_of_some_turns_is_not_taken_for_that_of_others(scored, minilm):
    rows = scored.rows
    for number, row in enumerate(rows):
        talk = ["word " * (number * 3 % 40 + 1), "word " * (number * 7 % 40 + 1)]
        row["dialogs"] = [
            {"role": role, "content": content}
            for text in talk
            for role, content in (("user", "q"), ("assistant", text))
        ]
    scored.add("pool", rows)
    for turns, lengths in {
        "first": [number * 3 % 40 for number in range(40)],
        "last": [number * 7 % 40 for number in range(40)],
    }.items():
        outcome = select(scored, "longest", mig_tokenizer=minilm, mig_turns=turns)
        assert rows_of(outcome) == best_first(lengths)[:10]


def test_damaged_token_counts_count_as_absent_and_are_made_again(scored, minilm, tmp_path, monkeypatch, caplog):
    settings = {"mig_tokenizer": minilm, "mig_overwrite": True, "mig_cache_dir": str(tmp_path / "kept")}
    expected = rows_of(select(scored, "longest", **settings))
    [counts] = (tmp_path / "kept" / "response_tokens").glob("*.npy")
    whole = counts.read_bytes()
    for damaged in (whole[:-1], whole[:200] + bytes([whole[200] ^ 64]) + whole[201:], b"", b"[1]"):
        counts.write_bytes(damaged)
        caplog.clear()
        assert rows_of(select(scored, "longest", **settings)) == expected
        assert caplog.text.count(f"{counts} is damaged or has no checksums; what it held is computed again") == 1
        assert counts.read_bytes() == whole
    monkeypatch.setattr("mig_selector.annotation.scores.count_tokens", None)
    assert rows_of(select(scored, "longest", **settings)) == expected  # nothing is counted twice


def test_a_method_keeps_the_rows_that_have_what_it_needs(scored):
    scored.rows[4]["annotation"]["instag"] = "no labels at all"
    scored.rows[6]["annotation"].pop("CaR")
    scored.add("pool", [*scored.rows, {"dialogs": scored.rows[0]["dialogs"]}])
    counts = {"random": {}, "ifd": {"no score at ifd_score.content": 1}, "top_score": {}}
    counts["top_score"] = {f"no score at annotation.deita.{kind}_scores": n for kind, n in [("quality", 1)]}
    for method, dropped in counts.items():
        report = manifest(select(scored, method))["rows"]
        assert (report["read"], report["dropped"]) == (41, dropped), method
    skipped = manifest(select(scored, "random", mig_labels="annotation.instag.content", mig_on_bad_row="skip"))
    assert skipped["rows"]["kept"] == 39
    assert manifest(select(scored, "random", mig_score="ifd", mig_on_bad_row="skip"))["rows"]["kept"] == 40
    both = manifest(select(scored, "ifd", mig_labels="annotation.instag.content", mig_on_bad_row="skip"))
    assert both["rows"]["kept"] == 39
    assert table(select(scored, "ifd", mig_labels="annotation.instag.content", mig_on_bad_row="skip"))["labels"][0]


def test_a_method_chooses_among_the_rows_that_are_left_to_it(scored):
    scored.rows[6].pop("ifd_score")
    scored.add("pool", scored.rows)
    kept = [row for row in range(40) if row not in (6, 9)]
    settings = scored.settings(mig_method="random")
    outcome = run_selection(settings, among=np.array(kept))[0]
    assert manifest(outcome)["rows"]["dropped"] == {"not usable by every method compared, or held out by a study": 2}
    assert rows_of(outcome) == [kept[place] for place in random.Random(42).sample(range(38), 10)]
    others = [run_selection(settings, among=among)[0] for among in (np.array(kept[1:]), None)]
    assert len({outcome.fingerprint, *(other.fingerprint for other in others)}) == 3
    assert run_selection(settings, among=np.array(kept))[0].is_reused
    with pytest.raises(ValueError, match="only 38 of 39 rows to choose from are kept"):
        run_selection(scored.settings(mig_method="ifd"), among=np.array(sorted([*kept, 6])))


def test_vectors_that_are_given_stand_for_all_rows_also_those_that_are_dropped(scored, vectors):
    scored.rows[0]["annotation"].pop("deita")
    scored.add("pool", scored.rows)
    kept = list(range(1, 40))
    scores = deita_sums([scored.rows[row] for row in kept])
    expected = naive_deita(scores, np.load(vectors).astype(np.float64)[1:], 0.9)
    assert rows_of(select(scored, "deita", mig_row_embeddings=str(vectors))) == [kept[row] for row in expected[:10]]
    np.save(vectors, np.load(vectors)[1:])
    with pytest.raises(EmbeddingError, match=r"mig_row_embeddings: .* must hold floats of shape \(40, D\)"):
        select(scored, "deita", mig_row_embeddings=str(vectors))


@pytest.mark.slow
def test_rows_are_embedded_as_the_method_says_once_and_kept(scored, tiny_llama, monkeypatch):
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(tiny_llama), AutoModel.from_pretrained(tiny_llama).eval()
    start = (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions. "
    )
    found = []
    for row in scored.rows:
        question, answer = (turn["content"] for turn in row["dialogs"])
        text = f"{start}USER: {question} ASSISTANT: {answer}{tokenizer.eos_token}"
        with torch.inference_mode():
            found.append(model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, -1].double().numpy())
    units = np.stack(found) / np.linalg.norm(found, axis=1, keepdims=True)
    cosines = np.sort((units @ units.T)[np.triu_indices(40, 1)])
    threshold = float(cosines[-40:-38].mean())
    kept = naive_deita(deita_sums(scored.rows), np.stack(found), threshold)
    keys = {"mig_row_embedding_model": tiny_llama, "mig_deita_threshold": threshold}
    outcome = select(scored, "deita", **keys)
    assert kept[:10] != best_first(deita_sums(scored.rows))[:10]
    assert rows_of(outcome) == kept[:10]
    assert manifest(outcome)["row_encoder"]["model"] == tiny_llama
    monkeypatch.setattr("mig_selector.embedding.rows._load_model", None)  # from here on no model is loaded
    assert rows_of(select(scored, "deita", mig_num_samples=5, **keys)) == kept[:5]


def test_ifd_is_computed_where_a_model_is_named_and_rows_without_it_are_dropped(scored, tiny_llama, monkeypatch):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    scored.rows[8]["dialogs"][1]["content"] = ""
    scored.add("pool", scored.rows)
    outcome = select(scored, "ifd", mig_ifd_model=tiny_llama, mig_fill="top_score", mig_num_samples=39)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama).eval()

    def loss(text, first):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        labels = ids.clone()
        labels[:, :first] = -100
        with torch.inference_mode():
            return float(model(input_ids=ids, labels=labels).loss)

    scores = []
    for row in scored.rows:
        prompt, answer = row["dialogs"][0]["content"] + "\n", row["dialogs"][1]["content"]
        if answer:
            first = len(tokenizer(prompt)["input_ids"])
            scores.append(math.exp(loss(prompt + answer, first) - loss(answer, 1)))
    found = table(outcome)
    assert sorted(found["score"]) == pytest.approx(sorted(scores), rel=1e-4)
    assert 8 not in found["row_index"]
    dropped = manifest(outcome)["rows"]["dropped"]
    assert dropped == {"no IFD: no answer, one of a single token, or none of it within mig_ifd_max_tokens": 1}
    monkeypatch.setattr(crew, "measure_losses", lambda *args: args[3])  # kept: nothing is measured again
    again = select(scored, "top_score", mig_score="ifd", mig_ifd_model=tiny_llama)
    assert table(again)["score"] == found["score"][:0] + sorted(found["score"], reverse=True)[:10]


def test_a_row_that_the_host_drops_is_dropped_whatever_the_method_and_counted(scored, minilm):
    scored.rows[5]["dialogs"] = scored.rows[5]["dialogs"][:1]
    scored.add("pool", scored.rows)
    for method in ("longest", "random", "top_score"):
        report = manifest(select(scored, method, mig_tokenizer=minilm))["rows"]
        assert (report["kept"], report["unreadable"]) == (39, {})
        [(reason, count)] = report["dropped"].items()
        assert ("user" in reason, count) == (True, 1)


def test_a_pool_that_changes_while_its_texts_are_read_leaves_nothing_in_the_cache(scored, minilm, monkeypatch):
    file = scored.data / "pool.jsonl"
    before = file.read_bytes()
    original = scores.count_tokens

    def changing(*arguments):
        file.write_bytes(before.replace(b"word", b"WORD"))
        return original(*arguments)

    monkeypatch.setattr(scores, "count_tokens", changing)
    with pytest.raises(PoolError, match=r"pool\.jsonl was changed while it was in use"):
        select(scored, "longest", mig_tokenizer=minilm)
    assert list(scored.entries()) == ["pool"]


def test_settings_of_other_methods_select_nothing_anew(scored, vectors):
    first = select(scored, "random")
    for more in ({"mig_zip_k1": 7}, {"mig_phi": "exp"}, {"mig_row_embeddings": str(vectors)}, {"mig_turns": "last"}):
        assert "already selected" in select(scored, "random", **more).summary[0]
    assert select(scored, "random", mig_seed=1).fingerprint != first.fingerprint
    given = {"mig_row_embeddings": str(vectors)}
    exact = select(scored, "qdit", **given)
    assert select(scored, "qdit", mig_seed=1, **given).fingerprint == exact.fingerprint  # nothing is drawn
    sampled = select(scored, "qdit", mig_qdit_sample=20, **given)
    assert select(scored, "qdit", mig_qdit_sample=20, mig_seed=1, **given).fingerprint != sampled.fingerprint
    assert "already selected" in select(scored, "random").summary[0]


def manual_example():
    blocks = re.findall(r"```python\n(.*?)```", MANUAL.read_text(encoding="utf-8"), re.DOTALL)
    [example] = [block for block in blocks if "@method" in block]
    return example


@pytest.fixture
def own_package(tmp_path, monkeypatch):
    """The manual's example as an installed package `my_package`, with an entry point."""
    (tmp_path / "site" / "my_package").mkdir(parents=True)
    (tmp_path / "site" / "my_package" / "__init__.py").write_text(manual_example(), encoding="utf-8")
    metadata = tmp_path / "site" / "my_package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[mig_selector.methods]\nrare = my_package:rarest_labels\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    yield tmp_path / "site" / "my_package" / "__init__.py"
    sys.modules.pop("my_package", None)


def rarest_labels(rows):
    """What the manual's example does, worked out again."""
    sets = [set(row["annotation"]["instag"]["content"]) for row in rows]
    counts = {label: sum(label in labels for labels in sets) for labels in sets for label in labels}
    return best_first([sum(1 / counts[label] for label in labels) for labels in sets])


@pytest.mark.parametrize("name", ["my_package.rarest_labels", "rare"])
def test_a_method_of_ones_own_is_named_by_its_path_or_its_entry_point(scored, own_package, name):
    assert len(manual_example().splitlines()) <= 20
    outcome = select(scored, name)
    assert rows_of(outcome) == rarest_labels(scored.rows)[:10]
    assert outcome.entries == {"pool": f"pool_{name.rpartition('.')[2]}_10"}
    assert "already selected" in select(scored, name).summary[0]
    own_package.write_text(own_package.read_text() + "\n# changed\n")
    assert "already selected" not in select(scored, name).summary[0]


def test_rows_are_annotated_whatever_keys_a_method_of_ones_own_has(tmp_path, monkeypatch):
    (tmp_path / "keyed.py").write_text(
        "from typing import Annotated\nfrom mig_selector import Setting, method\n\n\n@method(needs=[])\n"
        "def choose(pool, budget, *, keyed_step: Annotated[int, Setting('Step.', decides=True)] = 1):\n"
        "    return [0]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = {"dataset": "pool", "mig_method": "keyed.choose", "mig_keyed_step": 2, "mig_tagger": "vocabulary"}
    needed = settings_to_annotate(settings)
    assert (needed["mig_method"], needed["mig_tagger"], needed["dataset"]) == ("top_score", "vocabulary", "pool")
    assert "mig_keyed_step" not in needed
    with pytest.raises(ArgumentError, match="mig_keyed_stop is not a key"):
        settings_to_annotate({**settings, "mig_keyed_stop": 2})
    sys.modules.pop("keyed")


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("return [1, 2, 2]", "chose row 2 twice"),
        ("return [1, 40]", "chose row 40 of 40"),
        ("return [-1]", "chose row -1 of 40"),
        ("return [0.5]", r"chose float64 \(1,\), expected at most 10 row numbers"),
        ("return list(range(11))", "expected at most 10 row numbers"),
        ("return [3, 1]", "own.choose chooses only 2 of 40"),
        ("return pool.scores", "mig_method: it did not say that it needs 'scores'"),
        ("raise SystemExit(0)", r"own.choose ended the program \(SystemExit\(0\)\) instead of choosing"),
    ],
)
def test_what_a_method_of_ones_own_must_not_choose(scored, tmp_path, monkeypatch, body, fault):
    text = (
        f"from mig_selector.selection.method import method\n@method(needs=[])\ndef choose(pool, budget):\n    {body}\n"
    )
    (tmp_path / "own.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("own", None)
    with pytest.raises(ArgumentError, match=fault):
        select(scored, "own.choose")
    assert list(scored.entries()) == ["pool"]


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("deta", "'deta' is not a method; did you mean deita"),
        ("brilliance", "'brilliance' is not a method; known: mig, random, zip"),
        (
            "nowhere.choose",
            r"cannot be imported \(ModuleNotFoundError: No module named 'nowhere'\); is 'nowhere' inst",
        ),
        ("json.nothing", "json has no 'nothing'; check the name of the function"),
        ("json.loads", "does not say what it needs"),
    ],
)
def test_a_method_that_is_none_is_refused_before_anything_is_read(scored, name, fault):
    (scored.data / "pool.jsonl").write_text("no JSON at all")
    with pytest.raises(ArgumentError, match=f"mig_method: .*{fault}"):
        select(scored, name)


@pytest.mark.parametrize(
    ("head", "fault"),
    [
        ("@method(needs={'nonsense'})", "ValueError: needs: 'nonsense' unknown; expected labels, propagation"),
        ("1 +", "SyntaxError"),
    ],
)
def test_a_method_whose_module_breaks_is_one_message(scored, tmp_path, monkeypatch, head, fault):
    text = f"from mig_selector.selection.method import method\n{head}\ndef choose(pool, budget): 1\n"
    (tmp_path / "broken.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("broken", None)
    with pytest.raises(ArgumentError, match=f"cannot be imported .*{fault}"):
        select(scored, "broken.choose")


def test_a_method_that_asks_for_a_setting_that_is_no_key_is_refused(scored, tmp_path, monkeypatch):
    text = (
        "from mig_selector.selection.method import method\n@method(needs=[])\ndef choose(pool, budget, *, depth): 1\n"
    )
    (tmp_path / "asking.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ArgumentError, match="asks for the setting 'depth', but mig_depth is not a key"):
        select(scored, "asking.choose")


@pytest.mark.distributed
def test_one_rank_and_two_choose_the_same_rows_by_models(scored, minilm, tmp_path):
    (tmp_path / "s.yaml").write_text("{}")  # IFD goes the same way: tests/ranks/test_share.py
    words = [f"dataset_dir={scored.data}", "dataset=pool", "mig_num_samples=20", "mig_method=qdit"]
    # qdit needs no labels; that they are asked for has a tagger give all rows labels, on all ranks too.
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    words += ["mig_score=deita", f"mig_labels={DEFAULT_LABELS}", "mig_tagger=vocabulary", "mig_retag=true"]
    words += [f"mig_tagger_model={minilm}", f"mig_label_vocabulary={tmp_path / 'labels.txt'}"]
    words += ["mig_label_min_similarity=-1", "mig_labels_per_row=2"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    written = []
    threads = {"OMP_NUM_THREADS": "2"}  # on some processors the last bits of a vector depend on their number
    for launcher in ([], torchrun):
        own = [f"mig_{kind}_dir={tmp_path / kind / str(len(written))}" for kind in ("output", "cache")]
        command = ["python", *launcher, "-m", "mig_selector", "select", tmp_path / "s.yaml", *words, *own]
        done = run_command(*command, f"mig_row_embedding_model={minilm}", env=threads)
        assert done.returncode == 0, done.stderr
        written.append(pq.read_table(Path(done.stdout.strip().splitlines()[-1]) / "selection.parquet"))
    assert written[0].equals(written[1])
    assert {len(labels) for labels in written[0]["labels"].to_pylist()} == {2}
    sidecars = [path.read_bytes() for path in sorted(tmp_path.glob("cache/*/annotations/*/*"))]
    assert len(sidecars) == 4
    assert sidecars[:2] == sidecars[2:]
