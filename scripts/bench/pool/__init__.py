"""Seeded annotated pools of any size for benchmarks: realistic in size, labels and scores, but meaningless.

Layers (a module imports only from layers to its right; neighbors in one layer do not import each other):
    folder > arrays, json_lines, parquet, statistics, vectors > rows, words
"""
