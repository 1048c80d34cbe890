"""Models in, the paper's table out: benchmarks, their averages, and an interval for each figure.

``columns`` is the arithmetic of the table; ``tasks`` reads the questions; ``answers`` asks a model; ``grading`` and
``sandbox`` grade what it answered; ``results`` keeps everything; ``table`` shows it.
"""
