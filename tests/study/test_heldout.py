"""What is held out of a pool, or read from eval_dataset, and what is left to choose from."""

import numpy as np
import pytest
from support import make_row
from training import host_settings

from mig_selector.errors import ArgumentError
from mig_selector.pipeline.common_rows import settle_common_rows
from mig_selector.pipeline.crew import Crew
from mig_selector.ranks.world import Ranks
from mig_selector.study.heldout import OTHER_SOURCES, describe_one_group, describe_split, merge_small, split_pool
from mig_selector.study.setup import Options, set_up


def question(number):
    return f"question {number}"


@pytest.fixture
def split(workplace, tiny_llama, tmp_path):
    """Split a pool of rows with a source each; a dataset `tests` may be held out."""

    def run(rows, held_out=None, source="source", **options):
        workplace.add("pool", rows)
        keys = {**host_settings(tiny_llama, tmp_path / "out"), **workplace.settings(mig_method="random")}
        if held_out is not None:
            workplace.add("tests", held_out)
            keys["eval_dataset"] = "tests"
        setup = set_up(keys, Options(methods=[], source_column=source, **options))
        arguments = setup.measuring_arguments()
        common = settle_common_rows([arguments], arguments, setup.host, Crew(Ranks(), arguments))
        return split_pool(common, setup.holdout, source)

    return run


def rows_of(*counts):
    """Rows of as many sources as there are counts, in turn."""
    names = [name for name, count in zip("abcdefgh", counts, strict=False) for _ in range(count)]
    return [make_row(number, ["algebra"], 3.0, source=[name]) for number, name in enumerate(names)]


@pytest.mark.llamafactory
def test_each_source_gives_its_share_and_questions_that_are_held_out_are_no_candidates(split):
    rows = rows_of(100, 50)
    for number, row in enumerate(rows):
        row["dialogs"][0]["content"] = f"Question  {number % 75}"  # each of them twice
    found = split(rows, holdout=0.2)
    assert sorted(found.heldout.sources.tolist()) == ["a"] * 20 + ["b"] * 10
    held = set(range(150)) - set(found.candidates.tolist())
    assert found.same_question == len(held) - 30
    assert not {row % 75 for row in held} & {row % 75 for row in found.candidates.tolist()}
    assert found.sources.tolist() == ["a" if row < 100 else "b" for row in found.candidates.tolist()]
    again = split(rows, holdout=0.2)
    assert again.heldout.digest == found.heldout.digest
    assert again.candidates.tolist() == found.candidates.tolist()


@pytest.mark.llamafactory
def test_eval_dataset_is_held_out_flagged_by_its_overlap_and_taken_out_of_the_pool(split):
    rows = rows_of(30)
    long = " ".join(f"word{number}" for number in range(60))
    rows[3]["dialogs"][1]["content"] = long
    held = [make_row(500 + number, [], 3.0) for number in range(12)]
    held[0]["dialogs"][1]["content"] = long
    held[1]["dialogs"][1]["content"] = " ".join(f"other{number}" for number in range(60))
    held[2]["dialogs"][0]["content"] = question(7).upper()
    found = split(rows, held)
    assert found.candidates.tolist() == [row for row in range(30) if row != 7]
    assert found.same_question == 1
    assert len(found.heldout.rows) == 12
    assert found.heldout.is_flagged.tolist() == [True] + [False] * 11
    assert found.heldout.shares[0] > 0.9
    assert set(found.heldout.sources) == {"test"}


@pytest.mark.llamafactory
def test_sources_of_which_none_has_enough_answers_are_one_group(split):
    found = split(rows_of(*[20] * 8), holdout=0.1)
    assert describe_split(found)[0].startswith("held out: 16 answers from several sources, all taken together, ")
    assert describe_one_group(found.heldout, 0.1).endswith("Raise --holdout (now 0.1).")
    assert describe_one_group(found.heldout, None).endswith("Give a larger eval_dataset.")


@pytest.mark.llamafactory
def test_a_column_of_sources_that_no_row_has_is_an_error(split):
    with pytest.raises(ArgumentError, match=r"--source: no row of the pool has a column 'colour'\."):
        split(rows_of(30), source="colour", holdout=0.5)


@pytest.mark.llamafactory
def test_too_few_answers_or_candidates_are_an_error(split):
    with pytest.raises(ArgumentError, match="--holdout: only 4 answers are held out, and a study needs 10"):
        split(rows_of(20), holdout=0.2)
    rows = rows_of(30)
    for row in rows:
        row["dialogs"][0]["content"] = "the same question"
    with pytest.raises(ArgumentError, match="--holdout: every row of the pool asks the question of a held-out row"):
        split(rows, holdout=0.5)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"a": 30, "b": 12}, {"a": 30, "b": 12}),
        ({"a": 30, "b": 4, "c": 3, "d": 5}, {"a": 30, OTHER_SOURCES: 12}),
        ({"a": 30, "b": 12, "c": 3}, {"a": 30, OTHER_SOURCES: 15}),
        ({"a": 12}, {"a": 12}),
    ],
)
def test_small_sources_are_taken_together(counts, expected):
    names = np.array([name for name, count in counts.items() for _ in range(count)], np.object_)
    merged, found = np.unique(merge_small(names).astype(str), return_counts=True)
    assert dict(zip(merged.tolist(), found.tolist(), strict=True)) == expected
