"""Models in, the paper's table out: benchmarks, their averages, and an interval for each figure.

``columns`` is the arithmetic of the table; ``tasks`` reads the questions of the objective benchmarks and
``judged_questions`` those of the judged ones; ``answers`` asks a model. ``grading`` and ``sandbox`` grade what it
answered; ``judged`` asks a ``judge``, whose words ``verdicts`` reads. ``results`` keeps all of it; ``table`` shows it.
"""
