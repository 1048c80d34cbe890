"""Names are data too: none of them leads a file out of the folders that are ours to write to."""

import pytest
from support import make_rows

from mig_selector.arguments import NAME_PATTERN
from mig_selector.errors import ArgumentError
from mig_selector.pipeline.recipe import run_selection


NAMES = [
    *("../escaped", "/escaped", "a/../../escaped", "..", ".", "-", "a\\b", "a b", "é"),
    *("a\0b", "a\nb", "\x1b[31m", "\u202e", "~", "x" * 200),
]


def files_below(folder):
    return {path for path in folder.rglob("*") if not path.is_dir()}


@pytest.fixture
def written_for(workplace):
    """A function that selects from pools of some names; it returns the files that were not there before."""

    def select(*names, **more):
        for number, name in enumerate(names):
            workplace.add(name, make_rows(20, seed=number), file_name=f"pool{number}.jsonl")
        home = workplace.folder.parent
        before = files_below(home)
        try:
            run_selection(workplace.settings(dataset=list(names), mig_num_samples=20, **more))
        finally:
            written = files_below(home) - before
            ours = (workplace.data / "mig_selections", home / "cache", workplace.data / ".dataset_info.json.lock")
            assert all(any(path.is_relative_to(place) for place in ours) for path in written)
        return {path.name for path in written if path.is_relative_to(ours[0])}

    return select


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_a_pool_is_no_part_of_a_path_unless_it_is_plain(written_for, name):
    if NAME_PATTERN.fullmatch(name):
        assert "selected.jsonl" in written_for(name)
    else:
        with pytest.raises(ArgumentError, match="the entry would be named"):
            written_for(name)
    assert {"selected.jsonl", "manifest.json"} <= written_for(name, mig_dataset_name="plain")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("more", [{}, {"mig_dataset_name": "plain"}], ids=["default", "named"])
def test_the_names_of_several_pools_are_parts_of_file_names_only_if_they_are_plain(written_for, name, more):
    if NAME_PATTERN.fullmatch(name):
        assert {f"selected__{name}.jsonl", "selected__other.jsonl"} <= written_for("other", name, **more)
    else:
        with pytest.raises(ArgumentError, match="the entry would be named"):
            written_for("other", name, **more)


@pytest.mark.parametrize("name", [name for name in NAMES if not NAME_PATTERN.fullmatch(name)])
def test_a_given_name_must_be_plain(written_for, name):
    with pytest.raises(ArgumentError, match="mig_dataset_name"):
        written_for("pool", mig_dataset_name=name)
