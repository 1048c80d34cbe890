"""The method, and what a path leads to, in plain Python: what the fast ways are compared with."""

import math

import numpy as np


def naive_selection(label_sets, scores, matrix, objective, budget):
    """Method.md 2-5 in plain Python floats, one row after the other, nothing kept between steps."""
    return _greedy(label_sets, scores, matrix, objective, [1] * len(scores), budget)


def naive_selection_within(label_sets, scores, matrix, objective, costs, budget):
    """Rows by gain per unit of cost as long as one fits and gains; the best single row first if it is worth more."""
    rows, gains = _without_zeros(*_greedy(label_sets, scores, matrix, objective, costs, budget))
    worth = {
        row: naive_information(label_sets, scores, matrix, objective, [row])
        for row in range(len(scores))
        if costs[row] <= budget
    }
    best = max(worth, key=worth.get, default=None)  # the first of equal ones
    held = naive_information(label_sets, scores, matrix, objective, rows)
    if best not in [None, *rows] and worth[best] > held * (1 + 1e-12):
        return _without_zeros(*_greedy(label_sets, scores, matrix, objective, costs, budget, first=best))
    return rows, gains


def _without_zeros(rows, gains):
    return [row for row, gain in zip(rows, gains, strict=True) if gain > 0], [gain for gain in gains if gain > 0]


def naive_information(label_sets, scores, matrix, objective, rows):
    """E(D) of Eq. 8 less that of no rows."""
    total = 0.0
    for j in range(len(matrix)):
        x = math.fsum(scores[row] * matrix[label][j] for row in rows for label in label_sets[row])
        if objective.phi == "pow":
            total += (x + objective.offset) ** objective.exponent - objective.offset**objective.exponent
        else:
            total += -math.expm1(-objective.rate * x)
    return total


def _greedy(label_sets, scores, matrix, objective, costs, budget, first=None):
    size = len(matrix)
    information = [0.0] * size
    chosen, gains = [], []

    def phi(x):
        return (x + objective.offset) ** objective.exponent

    def slope(x):
        if objective.phi == "pow":
            return objective.exponent * (x + objective.offset) ** (objective.exponent - 1.0)
        return objective.rate * math.exp(-objective.rate * x)

    def rise(x, e):
        if objective.phi == "pow":
            return phi(x + e) - phi(x)
        return math.exp(-objective.rate * x) * -math.expm1(-objective.rate * e)

    def gain(row):
        labels = sorted(label_sets[row])
        if objective.gain == "gradient":
            total = 0.0
            for label in labels:
                q = 0.0
                for j in range(size):
                    if matrix[label][j]:
                        q += matrix[label][j] * slope(information[j])
                total += q
            return scores[row] * total
        total = 0.0
        for j, share in enumerate(spread(labels)):
            if share:
                total += rise(information[j], scores[row] * share)
        return total

    def spread(labels):
        shares = [0.0] * size
        for label in labels:
            for j in range(size):
                shares[j] += matrix[label][j]
        return shares

    left = budget
    while True:
        best, best_gain = None, -1.0
        for row in range(len(scores)) if first is None or chosen else [first]:
            if row not in chosen and costs[row] <= left and gain(row) / costs[row] > best_gain:
                best, best_gain = row, gain(row) / costs[row]
        if best is None:
            return chosen, gains
        left -= costs[best]
        chosen.append(best)
        gains.append(best_gain)
        for j, share in enumerate(spread(sorted(label_sets[best]))):
            information[j] += scores[best] * share


def dense(matrix):
    size = len(matrix.offsets) - 1
    full = np.zeros((size, size))
    for row in range(size):
        span = slice(matrix.offsets[row], matrix.offsets[row + 1])
        full[row, matrix.columns[span]] = matrix.weights[span]
    return full
