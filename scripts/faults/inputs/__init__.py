"""Pool files for fuzzing the reader, and a naive reader to compare it with.

Layers (a module imports only from layers to its right):
    naive > files > values
"""
