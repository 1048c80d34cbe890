"""The demo: its pool, its model, and a view of what was chosen."""
