"""Reading pools and writing subsets.

Reading: `sources` opens the files of an entry; `json_rows`, `csv_rows` and `tables` (with `arrow_leaves`) pass over
them and hand on `leaves`, batch by batch (`decoder` for JSON); `fields` says what becomes of each row; `extract` keeps
what selection needs, `parallel` does so in several processes, `extract_file` keeps it on disk, and `reading` puts it
together.

Writing: `subset` copies chosen rows by way of the `spool`, which learns from `columns` what their types are.
"""
