"""Receipts against the same figures computed by hand: every row looked at, at every step."""

import math

import numpy as np
import pytest
from naive import dense, naive_selection
from selection.pools import OBJECTIVES, as_pool, choose, name_of

from mig_selector.graph.label_graph import build_adjacency, build_propagation
from mig_selector.selection import receipts as module
from mig_selector.selection.receipts import explain_absence, find_takers, receipts


every_objective = pytest.mark.parametrize("objective", OBJECTIVES, ids=name_of)
BUDGET = 7


@pytest.fixture(scope="module")
def example():
    """Thirty rows with up to three of six labels, some of which are linked; equal rows and a score of 0 among them."""
    rng = np.random.default_rng(4)
    label_sets = [frozenset(rng.choice(6, rng.integers(0, 4), replace=False).tolist()) for _ in range(27)]
    scores = rng.integers(1, 6, 27).astype(float)
    label_sets += [label_sets[0], label_sets[1], label_sets[2]]
    scores = [*scores.tolist(), float(scores[0]), float(scores[1]), 0.0]
    vectors = rng.normal(size=(6, 3)) + 0.4
    return label_sets, scores, build_propagation(build_adjacency(vectors, 0.5), 0.7)


class ByHand:
    """The gain of any row after some others were chosen, term by term."""

    def __init__(self, label_sets, scores, matrix, objective):
        self.label_sets, self.scores, self.matrix, self.objective = label_sets, scores, dense(matrix), objective

    def information(self, chosen):
        held = np.zeros(len(self.matrix))
        for row in chosen:
            for label in self.label_sets[row]:
                held += self.scores[row] * self.matrix[label]
        return held

    def parts(self, row, chosen, score=None):
        """What each label of a row contributes to its gain."""
        held, score = self.information(chosen), self.scores[row] if score is None else score
        parts = dict.fromkeys(sorted(self.label_sets[row]), 0.0)
        spread = sum((self.matrix[label] for label in parts), np.zeros(len(self.matrix)))
        for j in np.flatnonzero(spread):
            x, e = held[j], score * spread[j]
            if self.objective.gain == "gradient":
                rise = e * self.slope(x)
            elif self.objective.phi == "pow":
                rise = self.phi(x + e) - self.phi(x)
            else:
                rise = math.exp(-self.objective.rate * x) - math.exp(-self.objective.rate * (x + e))
            for label in parts:
                parts[label] += rise * self.matrix[label][j] / spread[j]
        return parts

    def gain(self, row, chosen, score=None):
        return sum(self.parts(row, chosen, score).values())

    def phi(self, x):
        return (x + self.objective.offset) ** self.objective.exponent

    def slope(self, x):
        if self.objective.phi == "pow":
            return self.objective.exponent * (x + self.objective.offset) ** (self.objective.exponent - 1)
        return self.objective.rate * math.exp(-self.objective.rate * x)


def setting(example, objective):
    pool = as_pool(*example[:2])
    return (pool, example[2], objective, choose(*example, objective, BUDGET)), ByHand(*example, objective)


@every_objective
@pytest.mark.parametrize("shortlist", [4_096, 1, 3])
def test_receipts_are_those_computed_by_hand(example, objective, shortlist, monkeypatch):
    monkeypatch.setattr(module, "_SHORTLIST", shortlist)
    arguments, hand = setting(example, objective)
    selection = arguments[-1]
    found = receipts(*arguments, [5, 0, 1, 2, 3, 4, 6])
    assert [each.rank for each in found] == [5, 0, 1, 2, 3, 4, 6]
    for each in found:
        chosen = selection.rows[: each.rank].tolist()
        assert each.row == selection.rows[each.rank]
        assert each.gain == selection.gains[each.rank]
        others = [row for row in range(len(example[0])) if row not in (*chosen, each.row)]
        gains = {row: hand.gain(row, chosen) for row in others}
        assert each.runner_up_gain == pytest.approx(max(gains.values()), rel=1e-9, abs=1e-12)
        assert gains[each.runner_up] == pytest.approx(max(gains.values()), rel=1e-9, abs=1e-12)
        parts = hand.parts(each.row, chosen)
        assert {share.label: share.gain for share in each.shares} == pytest.approx(parts, rel=1e-9)
        assert sum(share.gain for share in each.shares) == pytest.approx(each.gain, rel=1e-9)
        assert sum(share.share for share in each.shares) == pytest.approx(1)
        assert all(one.gain >= other.gain for one, other in zip(each.shares, each.shares[1:], strict=False))


@every_objective
def test_rows_that_took_from_the_gain_of_another(example, objective):
    arguments, hand = setting(example, objective)
    selection = arguments[-1]
    for row in range(len(example[0])):
        found = find_takers(*arguments, row, most=100)
        close = {"abs": 1e-9 * max(found.first_gain, 1)}
        before = selection.rows.tolist()
        before = before[: before.index(row)] if row in before else before
        steps = [hand.gain(row, before[:rank]) for rank in range(len(before) + 1)]
        assert (found.first_gain, found.taken) == pytest.approx((steps[0], steps[0] - steps[-1]), **close)
        known = {each.rank: each.taken for each in found.takers}
        for rank in range(len(before)):
            assert known.get(rank, 0.0) == pytest.approx(steps[rank] - steps[rank + 1], **close)
        assert [each.taken for each in found.takers] == sorted(known.values(), reverse=True)
        assert found.num_takers == len(found.takers)
        assert find_takers(*arguments, row, most=1).takers == found.takers[:1]
        for each in found.takers:
            assert each.row == before[each.rank]
            held, left = hand.parts(row, before[: each.rank]), hand.parts(row, before[: each.rank + 1])
            lost = {label: held[label] - left[label] for label in held}
            assert {share.label: share.gain for share in each.shares} == pytest.approx(lost, **close)


@every_objective
def test_a_row_that_was_not_chosen_would_have_come_later_or_needed_a_score(example, objective):
    label_sets, scores, matrix = example
    arguments, hand = setting(example, objective)
    chosen = arguments[-1].rows.tolist()
    everything, _ = naive_selection(label_sets, scores, dense(matrix), objective, len(scores))
    for row in sorted(set(range(len(scores))) - set(chosen)):
        found = explain_absence(*arguments, row)
        assert found.row == row
        assert found.gain == pytest.approx(hand.gain(row, chosen), rel=1e-9, abs=1e-12)
        assert found.entry_rank == everything.index(row)
        assert {share.label: share.gain for share in found.shares} == pytest.approx(
            hand.parts(row, chosen), rel=1e-9, abs=1e-12
        )
        if objective.gain == "marginal" or not label_sets[row]:
            assert found.needed_score is None
            continue
        for factor, is_enough in ((1 + 1e-9, True), (1 - 1e-9, False)):
            other = [*scores[:row], found.needed_score * factor, *scores[row + 1 :]]
            assert (row in choose(label_sets, other, matrix, objective, BUDGET).rows) == is_enough


def test_the_last_row_has_no_runner_up(example):
    label_sets, scores, matrix = example
    objective = OBJECTIVES[0]
    selection = choose(label_sets, scores, matrix, objective, len(scores))
    last = receipts(as_pool(label_sets, scores), matrix, objective, selection, [len(scores) - 1])[0]
    assert (last.runner_up, last.runner_up_gain) == (None, None)
