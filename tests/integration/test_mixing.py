"""What max_samples and mix_strategy make of a budget: the lines say what the host's own functions do."""

import itertools
import re

import pytest

from mig_selector.integration.config import HostArguments
from mig_selector.integration.mixing import describe_changed_budget


def lines(rows, *, others=False, **keys):
    return describe_changed_budget(HostArguments.read({"dataset": "a", **keys}), rows, others=others)


def test_nothing_is_said_where_every_chosen_row_is_trained_on():
    assert lines({"a": 3, "b": 3}) == []
    assert lines({"a": 3, "b": 3}, max_samples=4) == []
    assert lines({"a": 3, "b": 3}, mix_strategy="interleave_under") == []
    assert lines({"a": 6}, mix_strategy="interleave_over") == []
    assert lines({"a": 6, "b": 2}, mix_strategy="interleave_once") == []  # only newer versions of datasets know it


def test_max_samples_is_a_limit_for_each_dataset():
    [line] = lines({"a": 6, "b": 3}, max_samples=4)
    assert line.startswith("max_samples: 4 is a limit for each dataset: training sees 7 of the 9 chosen rows (4 of 6")


def test_other_datasets_leave_the_number_open():
    [line] = lines({"a": 6}, mix_strategy="interleave_under", others=True)
    assert "depends on their sizes; mix_strategy: concat takes each once" in line


@pytest.mark.llamafactory
@pytest.mark.parametrize(
    ("strategy", "shares"),
    [
        ("concat", None),
        *itertools.product(["interleave_under", "interleave_over"], [None, "0.9,0.1", "0.2,0.8"]),
    ],
)
@pytest.mark.parametrize("sizes", [(40, 40), (60, 20), (1, 79)])
@pytest.mark.parametrize("max_samples", [None, 30])
def test_the_number_of_rows_is_that_of_the_host(strategy, shares, sizes, max_samples):
    from datasets import Dataset
    from llamafactory.data.data_utils import merge_dataset
    from llamafactory.hparams import DataArguments

    keys = {"mix_strategy": strategy, "max_samples": max_samples, "interleave_probs": shares}
    cut = [min(size, max_samples or size) for size in sizes]
    parts = [Dataset.from_dict({"row": range(size)}) for size in cut]
    expected = len(merge_dataset(parts, DataArguments(dataset="a,b", **keys), seed=42))
    said = lines(dict(zip("ab", sizes, strict=True)), **keys)
    numbers = re.findall(r"training sees (\d+) of|makes (\d+) rows", " ".join(said))
    assert int((["80", *(one or two for one, two in numbers)])[-1]) == expected
