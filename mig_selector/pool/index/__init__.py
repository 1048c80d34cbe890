"""The pool index: labels, scores and byte offsets of the kept rows of each pool file, cached.

`judge` decides what becomes of a row, `numbers` says which numbers it must hold, `file_index` scans a file with it,
`parallel` does so in several processes, `serialization` stores the result, and `cache` looks it up.
"""
