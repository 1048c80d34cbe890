"""Fault tests: selections that are killed, run at the same time, lose a rank or read broken files.

Scripts: annotate, concurrency, fuzz, kill, ranks
Shared:  checks, options, sandbox; inputs/ makes the fuzzer's files
"""
