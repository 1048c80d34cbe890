"""The demo pool: small generators of true instruction rows, grouped by subject.

Layers (a module imports only from layers to its right; the subjects do not import each other):
    build > the subjects (arithmetic, numbers, measures, text, code, languages, knowledge, reasoning, talk) > example
"""
