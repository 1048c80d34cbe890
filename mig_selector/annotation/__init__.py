"""Models that score raw rows."""
