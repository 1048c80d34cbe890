"""From a pool file to its rows: the values that selection needs of all rows, or some rows whole."""
