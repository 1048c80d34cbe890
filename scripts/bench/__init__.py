"""Benchmarks: a script for each, the pools that they make (pool/), and the modules that they share.

Scripts: car, deita, ifd, instag, make_pool, pipeline, qdit, scale, selection, startup, zip
Shared:  command, folders, options, results, timing, workspace

Layers of scripts/ (a module imports only from layers to its right):
    faults > bench > demo
"""
