"""Benchmarks: one script for each, and what they share.

Layers of scripts/ (a module imports only from layers to its right):
    faults > bench > demo
"""
