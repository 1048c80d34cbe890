"""#InsTag's passes choose what the published loop chooses, in the same order, and end where that one never would."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selection.pools import as_pool

from mig_selector.arrays import RowLabels
from mig_selector.selection.method import Candidates
from mig_selector.selection.methods.instag import instag


def choose(label_sets, budget, on_progress=lambda taken: None):
    pool = as_pool(label_sets, [1.0] * len(label_sets))
    num_labels = max((max(labels, default=-1) for labels in label_sets), default=-1) + 1
    labels = RowLabels([f"{label:06}" for label in range(num_labels)], pool.labels.offsets, pool.labels.ids)
    return instag(Candidates(len(label_sets), labels=labels), budget, on_progress=on_progress)


def naive_passes(label_sets, budget):
    """Methods.md 4.1 as it stands, on Python's sets and lists."""
    rows_left = sorted(range(len(label_sets)), key=lambda row: -len(label_sets[row]))
    chosen, gains = [], []
    while len(chosen) < budget:
        seen = set()
        for row in list(rows_left):
            if len(chosen) < budget and len(seen | label_sets[row]) > len(seen):
                chosen.append(row)
                gains.append(len(label_sets[row] - seen))
                seen |= label_sets[row]
                rows_left.remove(row)
        if not seen:
            break
    return chosen, gains


@st.composite
def label_sets(draw):
    num_labels = draw(st.integers(1, 9))
    return draw(st.lists(st.frozensets(st.integers(0, num_labels - 1)), min_size=1, max_size=30))


@settings(max_examples=300, deadline=None)
@given(label_sets(), st.integers(1, 35))
def test_the_passes_choose_what_the_published_loop_chooses(sets, budget):
    selection = choose(sets, budget)
    expected, gains = naive_passes(sets, budget)
    assert selection.rows.tolist() == expected
    assert selection.gains.tolist() == gains


@pytest.mark.parametrize("budget", [1, 700, 2_400])
def test_so_they_do_in_a_larger_pool_of_common_and_rare_labels(budget):
    rng = np.random.default_rng(5)
    lengths = rng.integers(0, 7, 2_500)
    sets = [set((rng.zipf(1.3, length) % 400).tolist()) for length in lengths]
    selection = choose(sets, budget)
    expected, gains = naive_passes(sets, budget)
    assert selection.rows.tolist() == expected
    assert selection.gains.tolist() == gains


def test_passes_worked_by_hand():
    # Visited: 3 (3 labels), 1 and 4 (2), 0, 2, 5 (1). Pass 1: 3 brings 0, 1, 2; 4 brings 3. Pass 2 begins anew.
    selection = choose([{0}, {0, 1}, {1}, {0, 1, 2}, {2, 3}, {3}], 5)
    assert selection.rows.tolist() == [3, 4, 1, 5, 0]
    assert selection.gains.tolist() == [3, 1, 2, 1, 1]


def test_rows_without_labels_are_never_taken():
    selection = choose([set(), {0}, set(), {0}], 4)
    assert selection.rows.tolist() == [1, 3]
    assert choose([set(), set()], 2).rows.tolist() == []


def test_a_selection_begins_with_every_smaller_selection():
    rng = np.random.default_rng(3)
    sets = [set(rng.choice(12, rng.integers(0, 5), replace=False).tolist()) for _ in range(60)]
    whole = choose(sets, 60).rows.tolist()
    for budget in range(1, len(whole)):
        assert choose(sets, budget).rows.tolist() == whole[:budget]


def test_a_pass_costs_no_more_than_what_it_takes():
    # Every pass over these takes one row: passes over all rows left would look at 45 billion.
    selection = choose([{0}] * 300_000, 300_000)
    assert selection.rows.tolist() == list(range(300_000))


def test_progress_adds_up_to_the_rows_chosen():
    taken = []
    selection = choose([{0}, {1}, {0, 1}, set(), {1}], 5, taken.append)
    assert sum(taken) == len(selection.rows) == 4
    assert len(taken) == 3


def test_only_labels_are_needed():
    assert instag.declaration.needs == {"labels"}
    assert instag.declaration.is_nested
    assert instag.declaration.may_fall_short


def test_importing_the_method_does_not_load_numba():
    program = "import sys, mig_selector.selection.methods.instag; print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
