"""Benchmarks: a script for each, the pools that they make (pool/), and the modules that they share.

Scripts: car, compare_commits, deita, ifd, instag, labels, make_pool, pipeline, qdit, scale, selection, startup,
         tokens, waiting, zip
Shared:  command, folders, options, results, timing, workspace

Layers of scripts/ (a module imports only from layers to its right):
    faults > bench > demo
"""
