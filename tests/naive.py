"""The method, and what a path leads to, in plain Python: what the fast ways are compared with."""

import math

import numpy as np


def naive_selection(label_sets, scores, matrix, objective, budget):
    """Method.md 2-5 in plain Python floats, one row after the other, nothing kept between steps."""
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

    for _ in range(budget):
        best, best_gain = None, -1.0
        for row in range(len(scores)):
            if row not in chosen and gain(row) > best_gain:
                best, best_gain = row, gain(row)
        chosen.append(best)
        gains.append(best_gain)
        for j, share in enumerate(spread(sorted(label_sets[best]))):
            information[j] += scores[best] * share
    return chosen, gains


def dense(matrix):
    size = len(matrix.offsets) - 1
    full = np.zeros((size, size))
    for row in range(size):
        span = slice(matrix.offsets[row], matrix.offsets[row + 1])
        full[row, matrix.columns[span]] = matrix.weights[span]
    return full


def below(value, key):
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return [item.get(key) for item in value]
    return value.get(key) if isinstance(value, dict) else None


def walk(row, *paths):
    """What is at the first path that leads to something; the first keys of a path may be one column."""
    for path in paths:
        keys = path.split(".")
        for level in range(1, len(keys) + 1):
            value = row.get(".".join(keys[:level]))
            for key in keys[level:]:
                value = below(value, key)
            if value is not None:
                return value
    return None
