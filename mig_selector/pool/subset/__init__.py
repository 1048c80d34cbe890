"""Chosen rows to the files that the trainer reads.

`writing` writes the files. `chosen` reads the chosen rows again, `spool` holds them in between, `columns` finds out
which types the columns of JSON have, `json_types` which types the host finds in JSON files. `tables` keeps the types
of columnar files.
"""
