"""What people are shown of selections, in files: tables, pictures, pages. Plain values in; no pool, no model."""
