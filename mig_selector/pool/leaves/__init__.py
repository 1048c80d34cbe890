"""Leaves: the values at the wanted paths of many rows, as arrays, and the shapes of the rows.

`paths` says where a value may be, and `labels` how a string becomes labels. `decoder` takes the values from JSON text
and `arrow` from record batches; `batch` holds the arrays, and `verdicts` says what becomes of a row that cannot be
kept. `json_values` knows which Arrow values JSON lacks. `shapes` says what a shape is; `json_shapes` and
`arrow_shapes` find it.
"""
