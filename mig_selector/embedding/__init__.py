"""Texts in, vectors out: labels and rows, embedded by an encoder on every rank or read from a file of the user."""
