"""Seeded annotated pools of any size for benchmarks: realistic in size, labels and scores, without meaning."""
