"""Chosen rows to the files that the trainer reads."""
