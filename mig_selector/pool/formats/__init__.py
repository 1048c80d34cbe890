"""Formats: from an entry of the pool to its files, and from a file to its rows.

`row_source` says what a format must offer, `files` chooses the format of a file, and `whole_faults` refuses files that
are wrong as a whole. One module for each format:
`json_lines`, `json_array`, `csv_rows`, `parquet` (with `parquet_leaves`), `arrow` and `hub`; `json_text` and `tables`
are what some share.
"""
