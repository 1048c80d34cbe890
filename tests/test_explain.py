"""mig-selector explain: what it says agrees with the selection, and with selections that differ in one thing."""

import json
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support import LABELS, make_row, make_rows, write_lines, write_vectors

from mig_selector import run_selection
from mig_selector.cli import main


@pytest.fixture
def explain(pool_of_60, capsys):
    """Select, then return a function that explains a row of the selection."""

    def select(**settings):
        folder = Path(run_selection(pool_of_60.settings(**settings))[0].folder)

        def explain(*words, code=0):
            capsys.readouterr()
            assert main(["explain", str(folder), *map(str, words)]) == code
            return capsys.readouterr().out if code == 0 else capsys.readouterr().err

        explain.folder = folder
        explain.table = pq.read_table(folder / "selection.parquet").to_pydict()
        return explain

    return select


def number(pattern, text):
    return float(re.search(pattern.replace("#", r"([\d.e+-]+)"), text)[1])


def test_a_chosen_row_has_its_rank_its_gain_and_the_labels_that_earned_it(explain, pool_of_60):
    ask = explain()
    table = ask.table
    text = ask("--row", table["row_index"][3])
    assert f"row {table['row_index'][3]} (pool.jsonl:{table['source_row'][3] + 1}): chosen by mig" in text
    assert "at rank 3 (0-based) of 10" in text
    assert number("gain: #, earned", text) == pytest.approx(table["gain"][3], rel=1e-5)
    assert number("it added # to", text) == pytest.approx(table["information"][3], rel=1e-5)
    shares = re.findall(r"^ +([\d.]+)%  [\d.e+-]+  (\w+)$", text, re.MULTILINE)
    assert sorted(label for _, label in shares) == table["labels"][3]
    assert sum(float(share) for share, _ in shares) == pytest.approx(100, abs=0.3)
    # Without the chosen row, the nearest loser has its place.
    loser = int(number("nearest row that lost to it: row #,", text))
    rows = [json.loads(line) for line in (pool_of_60.data / "pool.jsonl").open()]
    del rows[table["row_index"][3]]["annotation"]
    write_lines(pool_of_60.data / "pool.jsonl", rows)
    assert explain().table["row_index"][:4] == [*table["row_index"][:3], loser]
    assert ask("--id", table["row_id"][3], code=1).count("selected from other files or settings") == 1


@pytest.mark.slow
@pytest.mark.llamafactory
def test_with_a_budget_of_tokens_the_parts_of_a_gain_are_per_token_as_the_gain_is(explain, tiny_llama):
    host = {"model_name_or_path": tiny_llama, "template": "llama3", "cutoff_len": 128}
    ask = explain(mig_num_samples=None, mig_num_tokens=300, **host)
    text = ask("--row", ask.table["row_index"][1])
    gain = number("gain per token: #, earned", text)
    assert gain == pytest.approx(ask.table["gain"][1], rel=1e-5)
    parts = re.findall(r"^ +[\d.]+%  ([\d.e+-]+)  \w+$", text, re.MULTILINE)
    assert sum(map(float, parts)) == pytest.approx(gain, rel=1e-4)
    assert "nearest row" not in text


def test_an_identifier_of_rows_in_two_files_is_refused_also_if_one_of_them_was_chosen(explain, pool_of_60):
    pool_of_60.add("more", make_rows(60, seed=9))
    ask = explain(dataset="pool,more")
    assert "2 rows have it (" in ask("--id", ask.table["row_id"][0], code=1)


def test_an_identifier_of_many_rows_is_refused_with_their_number_also_if_one_of_them_was_chosen(explain, pool_of_60):
    write_lines(pool_of_60.data / "pool.jsonl", [{**row, "_id": "same"} for row in make_rows(60)])
    ask = explain(mig_num_samples=1)
    assert "'same': 60 rows have it (0, 1, 2, 3, 4, ...); give one by --row" in ask("--id", "same", code=1)


def test_a_cache_that_cannot_be_used_is_an_error(explain, tmp_path):
    ask = explain()
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("")
    assert "cannot be used: Not a directory" in ask("--row", 3, code=1)


def test_a_tie_is_said_to_be_one(explain, pool_of_60):
    pool_of_60.add("pool", [make_row(number, [LABELS[0]], 1.0) for number in range(60)])
    text = explain()("--row", 0)
    assert "nearest row that lost to it: row 1, with the same gain; ties go to the earlier row" in text


def test_rows_that_took_from_a_gain_and_are_not_listed_are_counted(explain, pool_of_60):
    pool_of_60.add("pool", [make_row(number, [LABELS[0]], 1.0) for number in range(60)])
    text = explain()("--row", 7)
    assert "7 chosen rows took" in text
    assert len(re.findall("% .* at rank", text)) == 5
    assert text.splitlines()[-2] == "  and 2 more"


def test_warnings_of_selecting_are_not_repeated(explain, pool_of_60, capsys):
    names = [f"label {number}" for number in range(30)]
    pool_of_60.add("pool", [make_row(number, [names[number % 30]], 1.0) for number in range(60)])
    pool_of_60.vectors.unlink()
    write_vectors(pool_of_60.vectors, names)
    ask = explain(mig_edge_threshold=1)
    capsys.readouterr()
    assert main(["explain", str(ask.folder), "--row", "0"]) == 0
    assert "nearly empty" not in capsys.readouterr().err


@pytest.mark.parametrize("normalize", [False, True])
def test_a_row_that_was_not_chosen_would_have_entered_where_it_says(explain, pool_of_60, normalize):
    ask = explain(mig_normalize=normalize)
    row = next(row for row in range(60) if row not in ask.table["row_index"])
    text = ask("--id", f"id{row}")
    assert f"row {row} (pool.jsonl:{row + 1}): not among the 10 rows that mig chose" in text
    entry_rank = int(number("would have entered at rank #,", text))
    assert f"mig_num_samples: {entry_rank + 1}" in text
    needed = number("with a score above #;", text)
    larger = explain(mig_normalize=normalize, mig_num_samples=entry_rank + 1)
    assert larger.table["row_index"][-1] == row
    taker, labels = re.search(r"chosen rows took .*?row (\d+) at rank \d+, from ([^\n]+)", text, re.DOTALL).groups()
    assert int(taker) in ask.table["row_index"]
    rows = [json.loads(line) for line in (pool_of_60.data / "pool.jsonl").open()]
    assert set(labels.split(", ")) <= set(rows[row]["annotation"]["instag"]["content"])
    rows[row]["annotation"]["deita"]["quality_scores"] = [needed * 1.0001]
    write_lines(pool_of_60.data / "pool.jsonl", rows)
    assert row in explain(mig_normalize=normalize).table["row_index"]
    rows[row]["annotation"]["deita"]["quality_scores"] = [needed * 0.9999]
    write_lines(pool_of_60.data / "pool.jsonl", rows)
    assert row not in explain(mig_normalize=normalize).table["row_index"]


def test_methods_without_a_label_graph_say_what_they_can(explain):
    ask = explain(mig_method="top_score")
    best, worst = ask.table["row_index"][0], next(row for row in range(60) if row not in ask.table["row_index"])
    text = ask("--row", best)
    assert "chosen by top_score at rank 0" in text
    assert "0 of 60 rows have a higher one" in text
    text = ask("--row", worst)
    assert "not among the 10 rows that top_score chose" in text
    assert number("lowest score of a chosen row is #", text) > number("score: #;", text)
    assert number("lowest score of a chosen row is #", text) == pytest.approx(min(ask.table["score"]), rel=1e-5)
    assert "keeps no record of how it weighed" in explain(mig_method="random")("--row", 5)


def test_a_row_that_was_dropped_or_does_not_exist(explain, pool_of_60):
    rows = make_rows(59)
    rows.insert(7, make_row("x", [], 3))
    rows[8:10] = [make_row("twin", [LABELS[0]], 0.5)] * 2  # too bad to be chosen
    write_lines(pool_of_60.data / "pool.jsonl", rows)
    ask = explain(mig_method="top_score", mig_labels="annotation.instag.content")
    assert "row 7 (pool.jsonl:8): could not be chosen: no labels at annotation.instag.content." in ask("--row", 7)
    assert "--row: 60 is not a row of the pool; it has rows 0 to 59" in ask("--row", 60, code=1)
    assert "'nobody': no kept row has it" in ask("--id", "nobody", code=1)
    assert "'idtwin': 2 rows have it (8, 9); give one by --row" in ask("--id", "idtwin", code=1)


def test_each_dropped_row_has_its_own_reason(explain, pool_of_60):
    rows = make_rows(60)
    rows[5]["annotation"]["instag"]["content"] = []
    del rows[6]["annotation"]["deita"]
    rows[7]["annotation"]["instag"]["content"] = 3
    rows[8]["dialogs"][1]["content"] = 5
    write_lines(pool_of_60.data / "pool.jsonl", rows)
    entries = pool_of_60.entries()
    entries["pool"]["split"] = "train[:50]"
    (pool_of_60.data / "dataset_info.json").write_text(json.dumps(entries), encoding="utf-8")
    ask = explain(mig_on_bad_row="skip", mig_method="top_score", mig_labels="annotation.instag.content")
    for row, reason in {
        5: "no labels at annotation.instag.content",
        6: "no score at annotation.deita.quality_scores",
        7: "annotation.instag.content must be",
        8: "content of every message must be a string",
        55: "outside split train[:50]",
    }.items():
        text = ask("--row", row)
        assert text.startswith(f"row {row} (pool.jsonl:{row + 1}): could not be chosen: {reason}")
        assert "Of the 60 rows of the pool, 14 could not be;" in text


def test_a_changed_table_is_not_explained(explain):
    ask = explain(mig_method="random")
    path = ask.folder / "selection.parquet"
    path.write_bytes(path.read_bytes() + b"x")
    assert "selection.parquet was changed since it was written" in ask("--row", 0, code=1)


def test_a_row_without_a_label_that_counts(explain, pool_of_60):
    write_lines(pool_of_60.data / "pool.jsonl", [*make_rows(59), make_row("x", ["rare"], 3)])
    text = explain()("--row", 59)
    assert "none of its labels counts, so it adds no information" in text
    assert "with a score above" not in text


def test_text_of_labels_cannot_move_the_cursor(explain, pool_of_60):
    rows = [make_row(n, ["odd\x1b[2J\nlabel", LABELS[n % 3]], 1.0 + n) for n in range(20)]
    write_lines(pool_of_60.data / "pool.jsonl", rows)
    pool_of_60.vectors.unlink()
    write_vectors(pool_of_60.vectors, ["odd\x1b[2J\nlabel", *LABELS])
    text = explain()("--row", 19)
    assert "odd\\x1b[2J\\nlabel" in text


@pytest.mark.parametrize("words", [["explain", "x"], ["explain", "x", "--row", "1", "--id", "a"]])
def test_wrong_usage_is_exit_code_2(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert capsys.readouterr().out == ""
