"""Names are data too: none of them leads a file out of the folders that are ours to write to."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import make_rows

from mig_selector.arguments import BUDGET_PLACEHOLDER, NAME_PATTERN
from mig_selector.errors import ArgumentError
from mig_selector.pipeline.names import comparison_name, pool_part, selection_name, with_hash
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
    assert {"selected.jsonl", "manifest.json"} <= written_for(name)
    assert {"selected.jsonl", "manifest.json"} <= written_for(name, mig_dataset_name="plain")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("more", [{}, {"mig_dataset_name": "plain"}], ids=["default", "named"])
def test_the_names_of_several_pools_are_parts_of_file_names_only_if_they_are_plain(written_for, workplace, name, more):
    files = written_for("other", name, **more)
    assert "selected__other.jsonl" in files
    subsets = {file for file in files if re.fullmatch(r"selected__[A-Za-z0-9_.+-]{1,128}\.jsonl", file)}
    assert len(subsets) == 2
    if NAME_PATTERN.fullmatch(name):
        assert f"selected__{name}.jsonl" in subsets
    new = set(workplace.entries()) - {"other", name}
    assert len(new) == 2
    assert all(NAME_PATTERN.fullmatch(each) for each in new)
    if NAME_PATTERN.fullmatch(name) and more:
        assert new == {"plain__other", f"plain__{name}"}


def test_a_made_up_name_is_what_is_allowed_of_the_first_name_and_a_hash():
    assert selection_name(["pool"], "mig", "10") == "pool_mig_10"
    assert selection_name(["a", "b"], "mig", "10") == "a+b_mig_10"
    assert re.fullmatch(r"mydata-[0-9a-f]{6}_mig_10", selection_name(["my data", "b"], "mig", "10"))
    assert re.fullmatch(r"[0-9a-f]{6}_mig_10", selection_name(["数据集"], "mig", "10"))
    eight = [letter * 27 for letter in "abcdefgh"]
    assert re.fullmatch(r"a{27}-[0-9a-f]{6}_mig_10", selection_name(eight, "mig", "10"))
    assert selection_name(eight, "mig", "10") != selection_name(eight[:1] + eight[:0:-1], "mig", "10")
    assert re.fullmatch(r"sub__[0-9a-f]{6}", pool_part("sub", "数据集"))


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5), st.text(max_size=300), st.integers(1, 10**12))
def test_every_made_up_name_is_allowed_with_a_hash_behind_it_too(pools, method, budget):
    name = selection_name(pools, method, str(budget))
    assert NAME_PATTERN.fullmatch(with_hash(name, "0123456789"))
    for stem in (name, with_hash(name, "0123456789"), "x" * 128):
        assert NAME_PATTERN.fullmatch(pool_part(stem, pools[-1]))
    for stem in (None, "x" * 128, "x{budget}", name):
        made = comparison_name(stem, pools, method)
        assert NAME_PATTERN.fullmatch(made.replace(BUDGET_PLACEHOLDER, "0"))
        assert len(made.replace(BUDGET_PLACEHOLDER, "12345")) <= 121


def test_other_settings_get_another_default_name_and_point_no_entry_elsewhere(pool_of_60, caplog):
    def select(**more):
        [outcome] = run_selection(pool_of_60.settings(**more))
        return outcome

    with caplog.at_level("INFO", logger="mig_selector"):
        first, second = select(), select(mig_phi="exp")
        for _ in range(2):
            assert [select().entries, select(mig_phi="exp").entries] == [first.entries, second.entries]
    short = second.fingerprint[:6]
    entries = pool_of_60.entries()
    assert set(entries) == {"pool", "pool_mig_10", f"pool_mig_10-{short}"}
    assert entries["pool_mig_10"]["mig_selector"] == first.fingerprint
    assert entries[f"pool_mig_10-{short}"]["mig_selector"] == second.fingerprint
    assert second.settings["dataset"] == f"pool_mig_10-{short}"
    assert "pointed to another subset" not in caplog.text


def test_other_settings_of_several_pools_get_other_names_too(workplace):
    for number, name in enumerate(("one", "数据集")):
        workplace.add(name, make_rows(20, seed=number), file_name=f"pool{number}.jsonl")
    settings = workplace.settings(dataset="one,数据集", mig_num_samples=20)
    [first], [second] = run_selection(settings), run_selection({**settings, "mig_phi": "exp"})
    assert not set(first.entries.values()) & set(second.entries.values())
    assert set(workplace.entries()) == {"one", "数据集", *first.entries.values(), *second.entries.values()}
    assert run_selection(settings)[0].entries == first.entries


@pytest.mark.parametrize("name", [name for name in NAMES if not NAME_PATTERN.fullmatch(name)])
def test_a_given_name_must_be_plain(written_for, name):
    with pytest.raises(ArgumentError, match="mig_dataset_name"):
        written_for("pool", mig_dataset_name=name)
