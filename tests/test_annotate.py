"""Rows without labels or scores, from the pool to the selection: what is computed, kept, found again and left out."""

import hashlib
import json
import logging
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from annotation.test_taggers import naive_nearest
from support import LABELS, ROOT, make_raw_rows, run_command, write_lines

from mig_selector import select as select_from
from mig_selector.annotation.sidecar import hash_row
from mig_selector.annotation.vocabulary import shipped_vocabulary
from mig_selector.cli import main
from mig_selector.errors import ArgumentError, MigSelectorError, PoolError
from mig_selector.pipeline.annotate_pool import annotate_pool
from mig_selector.pipeline.comparison import compare_methods
from mig_selector.pipeline.dry_run import estimate
from mig_selector.pipeline.explain import explain_row
from mig_selector.pipeline.recipe import run_selection
from mig_selector.pipeline.stages import _log_density
from mig_selector.pipeline.stored import find_selection
from mig_selector.ranks import share
from mig_selector.store.inventory import find_cached


ALPACA = {"formatting": "alpaca"}


@pytest.fixture
def place(workplace, word_encoder, tmp_path):
    """A workplace with 60 bare rows, and the settings to tag them by the eight labels."""
    workplace.add("pool", make_raw_rows(60), **ALPACA)
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    workplace.root = tmp_path

    def settings(**more):
        return {
            "dataset": "pool",
            "dataset_dir": str(workplace.data),
            "mig_num_samples": 20,
            "mig_tagger": "vocabulary",
            "mig_tagger_model": word_encoder,
            "mig_label_vocabulary": str(tmp_path / "labels.txt"),
            "mig_label_min_similarity": 0.25,
            "mig_max_failed": 0.2,
            **more,
        }

    workplace.settings = settings
    return workplace


def select(place, **more):
    return run_selection(place.settings(**more))[0]


def table(outcome):
    return pq.read_table(Path(outcome.folder) / "selection.parquet").to_pydict()


def manifest(outcome):
    return json.loads((Path(outcome.folder) / "manifest.json").read_text())


def sidecars(root):
    return sorted((root / "cache" / "annotations").rglob("*.parquet"))


def hash_of(row):
    """The hash of a bare row, as the manual describes it."""
    text = json.dumps({key: row[key] for key in sorted(row)}, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def question_of(row):
    return f"{row['instruction']}\n{row['input']}" if row["input"] else row["instruction"]


def expected_labels(rows, encoder, least=0.25, per_row=4):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(encoder, device="cpu")
    labels = model.encode(LABELS).tolist()
    return [
        naive_nearest(vector, labels, LABELS, per_row, least)
        for vector in model.encode([question_of(row) for row in rows]).tolist()
    ]


def test_bare_rows_are_selected_by_the_labels_nearest_to_their_questions(place, word_encoder):
    rows = make_raw_rows(60)
    expected = expected_labels(rows, word_encoder)
    outcome = select(place, mig_min_label_count=1)
    chosen = table(outcome)
    assert chosen["labels"] == [sorted(expected[row]) for row in chosen["row_index"]]
    assert set(chosen["score"]) == {1.0}
    failed = sum(not labels for labels in expected)
    assert failed > 0
    reason = "no label of the vocabulary is near (mig_label_min_similarity)"
    assert manifest(outcome)["rows"]["dropped"] == {f"not annotated: {reason}": failed}
    health = manifest(outcome)["annotation"]
    assert (health["rows"], health["failed"]) == (60, {reason: failed})
    assert health["scores"]["from"] == "constant"
    assert health["languages"]["sampled"] == sum(health["languages"]["questions"].values()) == 60

    [sidecar] = sidecars(place.root)
    kept = pq.read_table(sidecar)
    assert kept["row_hash"].to_pylist() == sorted(map(hash_of, rows))
    by_hash = {row["row_hash"]: row for row in kept.to_pylist()}
    for row, labels in zip(rows, expected, strict=True):
        made = by_hash[hash_of(row)]
        assert (made["labels"], made["score"]) == (labels, 1.0)
        assert made["status"] == ("ok" if labels else reason)
    made_by = json.loads(pq.read_metadata(sidecar).metadata[b"mig_selector"])
    assert made_by["tagger"]["kind"] == "vocabulary"
    assert made_by["models"]["mig_tagger_model"]["model"] == word_encoder
    assert made_by["scorer"]["kind"] == "ConstantScore"


@pytest.fixture
def computed(monkeypatch):
    """Counts the rows that the tagger's model embeds; `fail_after` chunks it raises."""
    from mig_selector.store.matrix import MatrixFile

    counts = {"rows": 0, "chunks": 0, "fail_after": None}
    append = MatrixFile.append

    def count(matrix, rows):
        if counts["chunks"] == counts["fail_after"]:
            raise MigSelectorError("killed")
        append(matrix, rows)
        counts["rows"] += len(rows)
        counts["chunks"] += 1

    monkeypatch.setattr(MatrixFile, "append", count)
    monkeypatch.setattr(share, "CHUNK_ITEMS", 16)
    return counts


def test_a_run_that_is_cut_off_goes_on_where_it_was(place, computed, tmp_path):
    whole = table(select(place, mig_cache_dir=str(tmp_path / "elsewhere")))
    assert computed["rows"] == 60
    computed.update(rows=0, chunks=0, fail_after=2)
    with pytest.raises(MigSelectorError, match="killed"):
        select(place, mig_overwrite=True)
    computed["fail_after"] = None
    assert table(select(place, mig_overwrite=True)) == whole
    assert computed["rows"] == 60  # 32 before the end, 28 after it
    [undisturbed], [resumed] = sorted((tmp_path / "elsewhere" / "annotations").glob("*/*.parquet")), sidecars(tmp_path)
    assert resumed.read_bytes() == undisturbed.read_bytes()


def test_only_rows_that_are_new_are_annotated(place, computed):
    select(place)
    rows = make_raw_rows(60)
    assert computed["rows"] == 60
    select(place, mig_num_samples=10)
    assert computed["rows"] == 60

    more = [*make_raw_rows(5, seed=9), *reversed(rows[7:])]
    write_lines(place.data / "pool.jsonl", [*more, *more[:3]])  # added, removed, reordered, repeated
    outcome = select(place)
    assert computed["rows"] == 65
    assert manifest(outcome)["annotation"]["rows"] == 61
    [sidecar] = sidecars(place.root)
    assert set(pq.read_table(sidecar)["row_hash"].to_pylist()) == set(map(hash_of, [*rows, *more]))


def test_a_damaged_sidecar_is_made_again(place, computed):
    before = table(select(place))
    [sidecar] = sidecars(place.root)
    content = sidecar.read_bytes()
    sidecar.write_bytes(content[:-1000])
    assert table(select(place, mig_overwrite=True)) == before
    assert sidecar.read_bytes() == content
    sidecar.with_name("label_vectors.npz").unlink()
    assert table(select(place, mig_overwrite=True)) == before
    assert computed["rows"] == 60  # the vectors were still there


def labelled(rows, every=2):
    return [{**row, "tags": ["my own", LABELS[0]]} if number % every == 0 else row for number, row in enumerate(rows)]


def test_rows_with_labels_keep_them_unless_they_are_to_be_tagged_again(place, word_encoder, computed):
    rows = make_raw_rows(60)
    expected = expected_labels(rows, word_encoder)
    write_lines(place.data / "pool.jsonl", labelled(rows))
    own = {"mig_labels": "tags", "mig_min_label_count": 1}
    chosen = table(select(place, **own))
    assert computed["rows"] == 30
    for row, labels in zip(chosen["row_index"], chosen["labels"], strict=True):
        assert labels == ([LABELS[0]] if row % 2 == 0 else sorted(expected[row]))
    again = table(select(place, **own, mig_retag=True))
    assert computed["rows"] == 60  # the tags of the others were kept
    assert again["labels"] == [sorted(expected[row]) for row in again["row_index"]]


def test_labels_of_the_rows_are_embedded_by_the_model_of_the_tagger(place):
    rows = labelled(make_raw_rows(60))
    write_lines(
        place.data / "pool.jsonl", [{**row, "tags": ["soup", "cell"]} if "tags" in row else row for row in rows]
    )
    vocabulary = place.root / "more.txt"
    vocabulary.write_text("\n".join([*LABELS, "soup", "cell"]))
    outcome = select(place, mig_labels="tags", mig_label_vocabulary=str(vocabulary), mig_edge_threshold=0.2)
    assert manifest(outcome)["labels"] == 10
    assert manifest(outcome)["edges"] > 0
    assert manifest(outcome)["encoder"] is None


def test_equal_rows_of_which_some_have_labels_are_tagged_where_they_have_none(place):
    rows = make_raw_rows(40)
    write_lines(place.data / "pool.jsonl", [*labelled(rows, every=1), *rows])
    keys = {"mig_labels": "tags", "mig_min_label_count": 1, "mig_num_samples": 60, "mig_max_failed": 0.3}
    chosen = table(select(place, **keys))
    assert {tuple(chosen["labels"][rank]) for rank, row in enumerate(chosen["row_index"]) if row < 40} == {
        (LABELS[0],)
    }
    assert any(row >= 40 for row in chosen["row_index"])
    assert table(select(place, **keys, mig_overwrite=True)) == chosen


def test_a_selection_that_needs_no_labels_runs_no_tagger(place):
    plain = {key: value for key, value in place.settings(mig_method="random").items() if not key.startswith("mig_tag")}
    outcome = select(place, mig_method="random")
    assert manifest(outcome)["annotation"] is None
    assert not sidecars(place.root)
    plain = {key: value for key, value in plain.items() if key not in ("mig_label_min_similarity", "mig_max_failed")}
    assert run_selection(plain)[0].fingerprint == outcome.fingerprint


def test_rows_without_a_question_fail(place):
    rows = make_raw_rows(60)
    rows[5] = {**rows[5], "instruction": " \n", "input": ""}
    write_lines(place.data / "pool.jsonl", rows)
    assert "mig_tagger_model: " in estimate(place.settings(), selects=False)[-2]
    assert manifest(select(place))["annotation"]["failed"]["the question is empty"] == 1


def test_too_many_failures_stop_the_run(place):
    with pytest.raises(
        PoolError, match=r"\d+ of 60 rows could not be annotated, more than mig_max_failed: 0.2 allows"
    ):
        select(place, mig_label_min_similarity=0.8)
    assert sidecars(place.root)  # a higher mig_max_failed need not annotate again
    with pytest.raises(PoolError, match=r"no row of the pool could be annotated \(no label of the vocabulary is near"):
        select(place, mig_label_min_similarity=1.0, mig_max_failed=1)


@pytest.mark.parametrize("layout", ["alpaca", "sharegpt"])
def test_the_shape_of_a_file_does_not_matter(place, layout):
    rows = make_raw_rows(60)
    if layout == "sharegpt":
        rows = [
            {"conversations": [{"from": "human", "value": question_of(row)}, {"from": "gpt", "value": row["output"]}]}
            for row in rows
        ]
    chosen = []
    for ending in ("jsonl", "parquet"):
        path = place.data / f"pool.{ending}"
        write_lines(path, rows) if ending == "jsonl" else pq.write_table(pa.Table.from_pylist(rows), path)
        place.add("pool", file_name=path.name, formatting=layout)
        chosen.append(table(select(place)))
    assert chosen[0]["row_index"] == chosen[1]["row_index"]
    assert len({tuple(pq.read_table(path)["row_hash"].to_pylist()) for path in sidecars(place.root)}) == 1


def test_response_tokens_are_counted_as_mig_score_counts_them(place, word_encoder, tiny_llama):
    scored = table(select(place, mig_scorer="response_tokens", mig_tokenizer=tiny_llama))
    asked = table(select(place, mig_score="response_tokens", mig_tokenizer=tiny_llama))
    assert scored == asked
    assert len(set(scored["score"])) > 10


def test_a_scorer_needs_no_tagger(place, tiny_llama):
    keys = {"mig_tagger": None, "mig_method": "top_score", "mig_tokenizer": tiny_llama}
    scored = table(select(place, mig_scorer="response_tokens", **keys))
    assert scored == table(select(place, mig_score="response_tokens", **keys))
    [sidecar] = sidecars(place.root)
    assert pq.read_table(sidecar)["labels"].null_count == 60


def test_rows_that_are_clustered_again_keep_their_scores(place, tiny_llama):
    keys = {"mig_tagger": "clusters", "mig_label_vocabulary": None, "mig_clusters": "3"}
    keys |= {"mig_scorer": "response_tokens", "mig_tokenizer": tiny_llama, "mig_overwrite": True}
    rows = make_raw_rows(62)
    counted, scores = [], []
    for cache, count in (("cache", 60), ("cache", 62), ("other", 62)):
        write_lines(place.data / "pool.jsonl", rows[:count])
        before = set(place.root.glob("*/response_tokens/*.npy"))
        found = table(select(place, **keys, mig_num_samples=count, mig_cache_dir=str(place.root / cache)))
        counted += [len(np.load(file)) for file in set(place.root.glob("*/response_tokens/*.npy")) - before]
        scores.append(dict(zip(found["row_index"], found["score"], strict=True)))
    assert counted == [60, 2, 62]
    assert scores[1] == scores[2]


def test_ifd_as_a_scorer_is_computed_and_never_read(place):
    with pytest.raises(ArgumentError, match="mig_scorer: ifd is computed by a language model; set mig_ifd_model"):
        select(place, mig_scorer="ifd")


def test_clusters_and_a_vocabulary_exclude_each_other(place):
    with pytest.raises(ArgumentError, match="mig_tagger: clusters finds labels of its own"):
        select(place, mig_tagger="clusters")


def test_tagging_again_needs_a_tagger(place):
    with pytest.raises(ArgumentError, match="mig_retag: true, but nothing gives other labels; set mig_tagger or mig_"):
        select(place, mig_tagger=None, mig_retag=True)


def test_a_file_that_is_in_the_pool_twice_has_one_sidecar_with_the_rows_of_both(place, computed):
    place.add("again", file_name="pool.jsonl", formatting="alpaca", columns={"prompt": "input", "response": "output"})
    settings = place.settings(dataset="pool,again", mig_max_failed=1.0)
    folder = annotate_pool(settings)
    assert folder.suffix == ".parquet"
    done = computed["rows"]
    assert annotate_pool(settings) == folder
    assert computed["rows"] == done


def test_score_and_scorer_exclude_each_other(place):
    with pytest.raises(ArgumentError, match="mig_score and mig_scorer both say what the score of a row is"):
        select(place, mig_scorer="constant", mig_score="constant")


def write_sidecar_of(place, rows, **columns):
    made = {
        "row_hash": [hash_of(row) for row in rows],
        "labels": [[LABELS[number % 8], LABELS[number % 3]] for number in range(len(rows))],
        "score": [float(number + 1) for number in range(len(rows))],
        "status": ["ok"] * len(rows),
        **columns,
    }
    path = place.root / "made elsewhere.parquet"
    pq.write_table(pa.table(made), path)
    return {"mig_tagger": None, "mig_sidecar": str(path)}


def vectors_of(place):
    return {"mig_label_embeddings": str(place.vectors)}


def test_a_sidecar_made_elsewhere_gives_labels_and_scores_whatever_the_order_of_the_rows(place):
    rows = make_raw_rows(60)
    keys = write_sidecar_of(place, rows[::-1], status=["ok"] * 59 + ["the model did not answer"])
    outcome = select(place, **keys, **vectors_of(place))
    chosen = table(outcome)
    assert chosen["score"] == [60.0 - row for row in chosen["row_index"]]
    assert chosen["labels"] == [
        sorted({LABELS[(59 - row) % 8], LABELS[(59 - row) % 3]}) for row in chosen["row_index"]
    ]
    assert manifest(outcome)["rows"]["dropped"] == {"not annotated: the model did not answer": 1}
    assert manifest(outcome)["annotation"]["found_in_sidecar"] == 60
    assert not sidecars(place.root)

    pq.write_table(
        pq.read_table(keys["mig_sidecar"]).set_column(2, "score", pa.array(np.ones(60))), keys["mig_sidecar"]
    )
    assert select(place, **keys, **vectors_of(place)).fingerprint != outcome.fingerprint


def test_rows_that_a_sidecar_lacks_are_an_error_or_tagged(place, word_encoder):
    rows = make_raw_rows(60)
    keys = {**write_sidecar_of(place, rows[:50]), **vectors_of(place)}
    with pytest.raises(
        PoolError, match=r"10 of the 60 rows that need annotations are not in it.*set mig_tagger and mig"
    ):
        select(place, **keys)
    with pytest.raises(PoolError, match="set mig_scorer for them"):
        select(place, **{**keys, "mig_tagger": "vocabulary"})
    keys |= {"mig_tagger": "vocabulary", "mig_score": "constant", "mig_min_label_count": 1}
    outcome = select(place, **keys)
    assert manifest(outcome)["annotation"]["found_in_sidecar"] == 50
    expected = expected_labels(rows, word_encoder)
    chosen = table(outcome)
    for row, labels in zip(chosen["row_index"], chosen["labels"], strict=True):
        assert labels == sorted({LABELS[row % 8], LABELS[row % 3]} if row < 50 else expected[row])
    assert any(row >= 50 for row in chosen["row_index"])


def test_a_sidecar_of_the_cache_can_be_given_to_a_later_run(place):
    chosen = table(select(place))
    [sidecar] = sidecars(place.root)
    for path in (sidecar, sidecar.parent):
        vectors = sidecar.with_name("label_vectors.npz")
        keys = {"mig_tagger": None, "mig_sidecar": str(path), "mig_label_embeddings": str(vectors)}
        assert table(select(place, **keys)) == chosen


def test_tagger_and_scorer_fill_the_gaps_of_a_sidecar_and_replace_nothing(place, word_encoder, computed, caplog):
    rows = make_raw_rows(60)
    labels = [None if number in (2, 3) else ["algebra"] for number in range(60)]
    score = [None if number in (3, 10) else 7.0 for number in range(60)]
    status = ["ok"] * 59 + ["the model did not answer"]
    keys = write_sidecar_of(place, rows, labels=labels, score=score, status=status)
    keys |= {"mig_tagger": "vocabulary", "mig_scorer": "constant", "mig_label_min_similarity": -1}
    outcome = select(place, mig_num_samples=59, **keys)
    assert manifest(outcome)["annotation"]["found_in_sidecar"] == 57
    assert manifest(outcome)["rows"]["dropped"] == {"not annotated: the model did not answer": 1}
    assert computed["rows"] == 2
    assert manifest(outcome)["annotation"]["scores"] == {
        "from": "mig_sidecar and constant",
        **{"least": 1.0, "mean": pytest.approx((57 * 7 + 2) / 59), "most": 7.0},
        "sources": {
            "mig_sidecar": {"rows": 57, "least": 7.0, "most": 7.0},
            "constant": {"rows": 2, "least": 1.0, "most": 1.0},
        },
    }
    warning = "57 scores from mig_sidecar (7 to 7), 2 scores from constant (1 to 1); they are compared as they are"
    assert warning in caplog.text
    expected = expected_labels(rows, word_encoder, least=-1)
    chosen = table(outcome)
    found = {
        row: values for row, *values in zip(*(chosen[name] for name in ("row_index", "labels", "score")), strict=True)
    }
    for row in range(59):
        assert found[row][0] == (sorted(expected[row]) if labels[row] is None else ["algebra"])
        assert found[row][1] == (1.0 if score[row] is None else 7.0)


def test_values_that_a_sidecar_lacks_are_reasons(place):
    rows = make_raw_rows(60)
    labels = [None if number < 4 else ["algebra"] for number in range(60)]
    score = [None if number in (3, 10, 11) else 1.0 for number in range(60)]
    outcome = select(place, **write_sidecar_of(place, rows, labels=labels, score=score), **vectors_of(place))
    assert manifest(outcome)["annotation"]["failed"] == {
        "no labels in the sidecar": 3,
        "no score in the sidecar": 2,
        "neither labels nor score in the sidecar": 1,
    }
    assert manifest(outcome)["annotation"]["scores"]["from"] == "mig_sidecar"
    selection = find_selection(outcome.folder, str(place.data))
    for row, lack in ((2, "no labels"), (3, "neither labels nor score"), (11, "no score")):
        assert f"could not be chosen: not annotated: {lack} in the sidecar." in explain_row(selection, row=row)[0]
    keys = write_sidecar_of(place, rows, labels=labels, score=score)
    with pytest.raises(PoolError, match=r"\): 0, 1, 2, 3, 10 and others\. Set mig_tagger and mig_scorer to fill in"):
        select(place, **keys, **vectors_of(place), mig_max_failed=0.05, mig_overwrite=True)


def test_questions_that_are_not_english_are_warned_of_where_the_labels_are(place, caplog):
    question = "Welche Unterlagen braucht man in Deutschland, um ein Gewerbe anzumelden?"
    rows = [{"instruction": f"{question} ({number})", "input": "", "output": "Viele."} for number in range(30)]
    write_lines(place.data / "pool.jsonl", [*rows, *make_raw_rows(10)])
    caplog.set_level("INFO", "mig_selector")
    own_labels = place.settings(mig_max_failed=1, mig_label_min_similarity=-1)
    annotate_pool(own_labels)
    assert "not in English" not in caplog.text
    with pytest.raises(PoolError, match=r"could not be annotated, .* set mig_tagger: clusters, with a mig_"):
        annotate_pool({**own_labels, "mig_label_vocabulary": None, "mig_max_failed": 0, "mig_label_min_similarity": 1})
    assert "annotations: languages of 40 questions: de (30), en (10)" in caplog.text
    assert "30 of 40 sampled questions are not in English (de: 30), but the labels are" in caplog.text
    assert "set mig_tagger: clusters with a multilingual mig_tagger_model" in caplog.text


def test_clusters_of_a_pool_are_its_labels_and_their_centres_the_label_vectors(place, computed):
    keys = {"mig_tagger": "clusters", "mig_clusters": [3], "mig_label_vocabulary": None, "mig_edge_threshold": 0.3}
    outcome = select(place, **keys)
    assert {len(labels) for labels in table(outcome)["labels"]} == {1}
    assert manifest(outcome)["labels"] == 3
    [sidecar] = sidecars(place.root)
    with np.load(sidecar.with_name("label_vectors.npz")) as file:
        names, vectors = file["labels"].tolist(), file["embeddings"]
    assert {name for labels in table(outcome)["labels"] for name in labels} == set(names)
    assert manifest(outcome)["edges"] == np.count_nonzero(np.triu(vectors @ vectors.T, 1) >= 0.3)
    assert table(select(place, **keys, mig_overwrite=True)) == table(outcome)
    assert computed["rows"] == 60

    write_lines(place.data / "pool.jsonl", [*make_raw_rows(60), *make_raw_rows(1, seed=5)])
    assert manifest(select(place, **keys))["annotation"]["rows"] == 61
    assert len(sidecars(place.root)) == 2  # another pool has other clusters


def test_methods_are_compared_on_annotated_rows(place):
    compared = compare_methods(place.settings(), ["mig", "random", "instag"])
    found = json.loads((Path(compared.folder) / "comparison.json").read_text())
    assert {each["method"] for each in found["methods"]} == {"mig", "random", "instag"}
    assert all(each["label_coverage"] > 0 for each in found["methods"])


def test_a_pool_is_annotated_without_a_selection(place, capsys, caplog):
    words = [f"--{key}={value}" for key, value in place.settings().items() if key != "mig_num_samples"]
    copy = place.root / "copy" / "annotated.jsonl"
    assert main(["annotate", *words, f"--to={copy}"]) == 0
    sidecar = Path(capsys.readouterr().out.splitlines()[-1])
    assert [sidecar] == sidecars(place.root)
    assert not (place.data / "mig_selections").exists()

    made = {row["row_hash"]: row for row in pq.read_table(sidecar).to_pylist()}
    expected = [
        {**row, "mig_labels": made[hash_of(row)]["labels"], "mig_score": 1.0}
        for row in make_raw_rows(60)
        if made[hash_of(row)]["status"] == "ok"
    ]
    assert [json.loads(line) for line in copy.read_text().splitlines()] == expected

    place.add("copy", file_name=str(copy), **ALPACA)
    keys = {"dataset": "copy", "mig_tagger": None, "mig_labels": "mig_labels", "mig_score": "mig_score"}
    read_again = table(select(place, **keys, **vectors_of(place)))
    assert read_again["labels"] == table(select(place, **vectors_of(place)))["labels"]


def test_several_pool_files_have_a_sidecar_each(place):
    place.add("more", make_raw_rows(9, seed=3), **ALPACA)
    folder = annotate_pool(place.settings(dataset="pool,more"))
    assert {len(pq.read_table(path)) for path in folder.glob("*.parquet")} == {60, 9}
    assert {path.name.rpartition("-")[0] for path in folder.glob("*.parquet")} == {"pool", "more"}


def test_a_kill_between_two_sidecars_changes_no_clusters(place):
    place.add("more", make_raw_rows(30, seed=3), **ALPACA)
    keys = {"mig_tagger": "clusters", "mig_clusters": [3], "mig_label_vocabulary": None}
    folder = annotate_pool(place.settings(dataset="pool,more", **keys))
    files = sorted(folder.glob("*.*"))
    before = [file.read_bytes() for file in files]
    [cached] = [kind for kind in find_cached(place.root / "cache") if kind.name == "annotations"]
    assert sorted(file.path for file in cached.files) == files  # so that all of them can be pruned
    next(folder.glob("more-*.parquet")).unlink()
    annotate_pool(place.settings(dataset="pool,more", **keys))
    assert [file.read_bytes() for file in files] == before


def test_media_belong_to_the_hash_of_a_row(place):
    rows = [
        {**row, "instruction": f"<image>{row['instruction']}", "images": [f"{number}.png"]}
        for number, row in enumerate(make_raw_rows(60))
    ]
    columns = {"prompt": "instruction", "query": "input", "response": "output", "images": "images"}
    place.add("pool", rows, **ALPACA, columns=columns)
    outcome = select(place, **write_sidecar_of(place, rows), **vectors_of(place))
    assert manifest(outcome)["annotation"]["found_in_sidecar"] == 60


@pytest.mark.parametrize(
    ("keys", "to", "message"),
    [
        ({"mig_tagger": None}, None, "nothing says how rows are annotated; set mig_tagger"),
        ({"mig_tagger": None, "mig_tager": "vocabulary"}, None, "mig_tager is not a key .* did you mean mig_tagger?"),
        ({}, "pool.jsonl", "pool.jsonl exists, and is not overwritten"),
        ({}, "copy.parquet", "copy.parquet must end with .jsonl: JSON Lines are written"),
        ({"mig_score": "score", "mig_labels": "tags"}, None, "there is nothing to annotate. Set mig_retag: true"),
    ],
)
def test_what_cannot_be_annotated_is_refused(place, keys, to, message):
    write_lines(place.data / "pool.jsonl", [{**row, "tags": ["a"], "score": 2} for row in make_raw_rows(60)])
    with pytest.raises(ArgumentError, match=message):
        annotate_pool(place.settings(**keys), to=None if to is None else str(place.data / to))


def test_a_dry_run_refuses_the_copy_that_a_run_would_refuse(place):
    place.add("chats", [{"conversations": []}], formatting="sharegpt")
    copy = place.root / "copy.jsonl"
    layouts = r"--to: pool and chats have different layouts .*mig_pool: pool\)"
    for settings, to, message in (
        (place.settings(), place.data / "pool.jsonl", "pool.jsonl exists, and is not overwritten"),
        (place.settings(dataset="pool,chats"), copy, layouts),
    ):
        with pytest.raises(ArgumentError, match=message):
            estimate(settings, selects=False, to=str(to))
        with pytest.raises(ArgumentError, match=message):
            annotate_pool(settings, to=str(to))


def test_a_default_model_that_cannot_be_found_is_called_the_default(place, monkeypatch):
    monkeypatch.setattr("mig_selector.annotation.taggers._MINILM", "no/such-model")
    message = "mig_tagger_model: the default, 'no/such-model', is not a folder on this machine and was not found"
    with pytest.raises(MigSelectorError, match=message):
        select(place, mig_tagger_model=None)


def test_annotations_that_tell_no_rows_apart_are_warned_of(place, caplog):
    rows = make_raw_rows(60)
    labels = [[f"label {number}"] for number in range(60)]
    keys = write_sidecar_of(place, rows, labels=labels, score=[3.0] * 60)
    annotate_pool(place.settings(**keys, mig_label_vocabulary=None))
    assert "every row has the score 3: whatever made the scores tells no rows apart" in caplog.text
    assert "60 of 60 rows: all labels are so rare that they do not count (mig_min_label_count)" in caplog.text
    assert "for common labels set mig_tagger: vocabulary and mig_retag: true" in caplog.text
    caplog.clear()
    annotate_pool(place.settings(**keys, mig_label_vocabulary=None) | {"mig_tagger": "vocabulary"})
    assert "information; set mig_min_label_count: 1, or give a shorter list as mig_label_vocabulary" in caplog.text


def test_that_the_shipped_labels_share_no_edges_is_no_fault(caplog):
    names = list(shipped_vocabulary())[:30]
    with caplog.at_level(logging.INFO, logger="mig_selector"):
        _log_density(names, np.eye(30), 0, 0.9)
        _log_density([*names[1:], "a label of somebody else"], np.eye(30), 0, 0.9)
    told, warned = caplog.records
    assert (told.levelname, warned.levelname) == ("INFO", "WARNING")
    assert told.message.endswith("mig_edge_threshold: 0.6 joins related ones")
    assert warned.message.endswith("0 at 0.5; lower it to join labels of similar meaning")


def test_a_dry_run_says_what_an_annotation_would_take_and_writes_nothing(place, capsys):
    write_lines(place.data / "pool.jsonl", labelled(make_raw_rows(90), every=3))
    words = [f"--{key}={value}" for key, value in place.settings(mig_labels="tags").items()]
    before = {path: path.stat().st_mtime_ns for path in place.root.rglob("*")}
    for command in ("select", "train", "annotate"):
        assert main([command, *words, "--dry-run"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "pool: 90 rows read, 90 kept"
        assert ("to choose: 20 rows" in lines) is (command != "annotate")
        assert "labels: 2 distinct; 60 rows without any" in lines
        model, labels = [line for line in lines if line.startswith("mig_tagger_model: ")]
        assert re.search(r" reads 60 rows: about [\d.]+ \w+ on this process alone \(tried on 60 rows\), 0.0 MB", model)
        assert re.search(r" embeds 8 texts of labels: about [\d.]+ \w+ on this .* \(tried on 8 texts\)", labels)
    assert main(["compare", *words, "--methods=mig,random", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith(("==", "to choose"))] == [
        *("== mig", "to choose: 20 rows", "== random", "to choose: 20 rows")
    ]
    assert {path: path.stat().st_mtime_ns for path in place.root.rglob("*")} == before


def test_a_dry_run_tries_every_model_that_reads_rows(place, word_encoder, tiny_llama):
    keys = {"mig_method": "qdit", "mig_row_embedding_model": word_encoder, "mig_labels": "tags"}
    more = {"mig_scorer": "response_tokens", "mig_tokenizer": tiny_llama}
    lines = estimate(place.settings(**keys, **more), selects=True)
    assert [line.partition(": ")[0] for line in lines[3:]] == [
        *("mig_tagger_model", "mig_tokenizer", "mig_row_embedding_model", "mig_tagger_model")
    ]


def test_bare_rows_in_memory_are_selected_from(word_encoder):
    rows = make_raw_rows(60)
    subset = select_from(rows, num_samples=5, tagger="vocabulary", tagger_model=word_encoder, label_min_similarity=-1)
    assert [subset.dataset[rank] for rank in range(5)] == [rows[index] for index in subset.indices]
    assert subset.manifest["annotation"]["labels"]["per_row"] == 4


def test_the_manual_hashes_rows_as_we_do():
    manual = (ROOT / "yaml_configs" / "README.md").read_text(encoding="utf-8")
    [example] = [text for text in re.findall(r"```python\n(.*?)```", manual, re.DOTALL) if "def row_hash" in text]
    names = {}
    exec(example, names)
    for row in [*make_raw_rows(5), {"instruction": "é \n", "input": None, "output": "b", "other": 1}]:
        assert names["row_hash"](row) == hash_row(row, ["instruction", "input", "output"])


def test_the_agreement_of_labels_with_a_column_is_measured(tmp_path):
    kinds = ["code", "code", "code", "cook", "cook", "cook"]
    labels = [["a", "x"], ["a", "x"], ["b", "x"], ["c", "x"], ["c", "x"], ["a"]]
    rows = [{"source": [kind], "mig_labels": own} for kind, own in zip(kinds, labels, strict=True)]
    write_lines(tmp_path / "annotated.jsonl", rows)
    done = run_command("python", ROOT / "scripts" / "bench" / "labels.py", tmp_path / "annotated.jsonl")
    assert done.returncode == 0, done.stderr
    _, first, second = (line.split() for line in done.stdout.splitlines())
    assert first[:3] == ["1", "6", "3"]
    assert float(first[4]) == pytest.approx(5 / 6, abs=5e-4)  # a: 2 of 3, b: 1, c: 2
    # H(kind) = 1 bit; given the label only a leaves a doubt, of H(2/3) bits in half of the rows.
    doubt, of_labels = 0.918296 / 2, 1.459148
    assert float(first[3]) == pytest.approx((1 - doubt) / ((1 + of_labels) / 2), abs=5e-4)
    assert second[:5] == ["2", "5", "1", "0.000", "0.600"]
