"""One pass over the rows of a pool: labels, scores and row offsets, kept in the cache."""
