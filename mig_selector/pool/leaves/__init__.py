"""Leaves: the values at the wanted paths of many rows, as arrays.

`decoder` takes them from JSON text and `arrow` from record batches; `batch` holds the arrays, and `verdicts` says what
becomes of a row that cannot be kept.
"""
