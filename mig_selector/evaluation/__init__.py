"""Models in, the paper's table out: nine benchmarks, their averages, and an interval for each figure.

``columns`` is the arithmetic; ``tasks`` and ``data`` are the questions; ``answers`` asks a model; ``grading`` and
``sandbox`` grade what it answered; ``results`` keeps everything; ``table`` shows it.
"""
