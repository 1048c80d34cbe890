"""Chosen rows to the files that the trainer reads.

`writing` reads the chosen rows again and writes the files, `spool` holds the rows in between, and `columns` finds out
which types their columns have.
"""
