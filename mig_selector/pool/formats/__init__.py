"""Formats: from an entry of the pool to its files, and from a file to its rows.

`row_source` says what a format must offer, `files` chooses the format of a file. One module for each format:
`json_lines`, `json_array`, `csv_rows`, `parquet`, `arrow` and `hub`; `json_text` and `tables` are what some share.
"""
