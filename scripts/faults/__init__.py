"""Fault tests: selections that are killed, run at the same time, lose a rank or read broken files."""
