"""Pool files to fuzz the reader with, and what a naive reader makes of them."""
