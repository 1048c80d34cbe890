"""Equal rows wait for each other if they are frequent; rows that differ in anything do not."""

from unittest.mock import patch

import numpy as np
from selection.pools import as_pool

from mig_selector.selection import twins
from mig_selector.selection.twins import link_equal_rows


def link(label_sets, scores):
    is_candidate = np.ones(len(scores), np.bool_)
    following = link_equal_rows(as_pool(label_sets, scores), is_candidate)
    return following.tolist(), is_candidate.tolist()


def test_each_row_waits_for_the_equal_one_before_it():
    with patch.object(twins, "_PAIRS_WORTH_LINKING", 0):
        following, is_candidate = link([{0}, {1}, {0}, {0, 1}, set(), {0}, set()], [1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 1.0])
    assert following == [2, -1, -1, -1, 6, -1, -1]
    assert is_candidate == [True, True, False, True, True, True, False]


def test_no_row_waits_if_few_are_equal():
    following, is_candidate = link([{row % 7} for row in range(5000)], np.arange(5000) // 2 + 1.0)
    assert following == []
    assert all(is_candidate)


def test_frequent_equal_rows_are_found_however_many_kinds_there_are():
    # 3000 kinds, more than the first hash table holds; whole scores, whose bits end in zeros.
    rng = np.random.default_rng(2)
    kinds = rng.integers(0, 3000, 12_000)
    label_sets = [{kind % 30, 30 + kind // 30 % 10} for kind in kinds.tolist()]
    following, is_candidate = link(label_sets, 1.0 + kinds // 300)
    last, expected = {}, [-1] * len(kinds)
    for row, kind in enumerate(kinds.tolist()):
        if kind in last:
            expected[last[kind]] = row
        last[kind] = row
    assert following == expected
    assert is_candidate == [row not in expected for row in range(len(kinds))]
