"""A report with everything that one can have, and the same with text that tries to be more than text."""

from dataclasses import replace

from mig_selector.report.comparison import MethodFigures
from mig_selector.report.selection import (
    AnnotatedRow,
    Bin,
    ChosenRow,
    Curve,
    Distribution,
    LabelCount,
    Labels,
    MapLabel,
    Point,
    SelectionReport,
    Training,
)


EVIL = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"' onmouseover='alert(1)",
    "--> ]]> </style></svg></title></details><b>",
    "{{ 7 * 7 }}{% raw %}",
    "\x1b[2J\x00\r\n\u202egnp\u2066\x85",
    "$x^2$ \\frac{1}{2}",
    "_hidden in a legend",
    "half a pair \udcff",
    "e" + "\u0301" * 5000,
    "=HYPERLINK('http" + "://evil')",
]


def chosen_row(rank, **changes):
    row = ChosenRow(
        rank=rank,
        pool_index=1_000 + rank,
        file="pool.jsonl",
        source_row=rank,
        row_id=f"id{rank}",
        question=f"What is {rank} + {rank}?",
        answer=f"It is\n{2 * rank}.",
        labels=["algebra", "logic"],
        score=4.5,
        gain=0.5,
        information=0.25,
        earned=[("algebra", 0.75), ("logic", 0.25)],
        runner_up=1_017,
        runner_up_gain=0.4,
    )
    return replace(row, **changes)


def figures(method, **changes):
    known = MethodFigures(method, 40, None, None, 50.0, 5 / 6, 4.5, 12_345, {"alpha": 30, "beta": 10}, "")
    return replace(known, **changes)


def _point(rows, information):
    return Point(rows, information, information / 50)


COUNTS = [
    LabelCount(name, 100 - 10 * n, 20 - 4 * n, 1.0 - 0.2 * n) for n, name in enumerate(["algebra", "logic", "x"])
]
REPORT = SelectionReport(
    name="pool_mig_40",
    method="mig",
    rows=40,
    kept_rows=200,
    read_rows=210,
    dropped={"no labels": 10},
    score="deita",
    this=figures("mig", tokens_error=234),
    others=[figures("random", tokens=None), figures("top score", tokens=None)],
    all_rows=figures("all rows", rows=200, information=100.0, mean_score=3.0, tokens=None),
    tokenizer="llama",
    training=Training(steps=10, rows_per_step=8, processes=2, epochs=2.0, planned_on="2026-01-31"),
    curve=Curve(
        points=[_point(1, 5.0), _point(20, 40.0), _point(40, 50.0), _point(160, 98.0)],
        knee=_point(9, 30.0),
        at_shares={"10%": _point(4, 18.0), "25%": _point(10, 31.0), "50%": _point(20, 40.0), "100%": _point(40, 50.0)},
        pool_information=100.0,
        rows_needed={"80%": 60, "90%": 100, "95%": 150, "99%": None},
    ),
    labels=Labels(
        in_use=6,
        covered=5,
        not_counted=3,
        over=[LabelCount("wanted", 20, 12, 3.0)],
        under=[LabelCount("unwanted", 40, 0, 0.0)],
        missing=[LabelCount("lost", 7, 0, 0.0)],
        map=[MapLabel(count, n / 2, 1 - n / 2) for n, count in enumerate(COUNTS)],
        edges=[(0, 1)],
    ),
    distributions=[
        Distribution("score", "score", [Bin("0", 0.5, 0.25), Bin("1", 0.5, 0.75)], True, 3.0, 4.5, 200, 40),
        Distribution("language", "language", [Bin("en", 0.9, 1.0), Bin("fr", 0.1, 0.0)], False, None, None, 200, 40),
    ],
    annotation={
        "rows": 1_200,
        "found_in_sidecar": 200,
        "failed": {"no question": 3},
        "languages": {"sampled": 294, "questions": {"en": 290, "fr": 4}},
        "labels": {
            "distinct": 40,
            "per_row": 2.5,
            "most_frequent": {"algebra": 100, "logic": 90},
            "rows_with_rare_labels_only": 1,
        },
        "tags": {
            "tags": 900,
            "after": {"frequency": 80, "words": 60, "meaning": 45, "association": 40},
            "largest_merges": {"algebra": ["algebras", "linear equations"]},
        },
        "distilled": {
            "rows": 500,
            "failed": 2,
            "labels": 38,
            "threshold": 0.3,
            "held_out_rows": 50,
            "micro_f1": 0.7114,
            "baseline_f1": 0.2,
            "macro_f1": 0.6,
            "learnt_share": 0.9,
        },
        "scores": {"from": "deita", "least": 11.72472317468737, "mean": 15.2, "most": 30.0},
        "scorer": {"texts": 40, "doubtful": {"complexity": 40, "quality": 0}},
    },
    annotated_rows=[AnnotatedRow(7, "Solve x + 1 = 2.", ["algebra"], 3.5), AnnotatedRow(11, "And now?", [], None)],
    first_rows=[chosen_row(rank) for rank in range(3)],
    sampled_rows=[chosen_row(rank) for rank in (20, 30)],
    notes=["Lengths are those of a sample."],
    command="mig-selector select --dataset pool --mig_num_samples 40",
    settings={"mig_num_samples": "40"},
    files=[{"dataset": "alpha", "file": "/data/pool.jsonl", "bytes": 1, "sha256": "ab" * 32}],
    versions={"numpy": "2.0"},
    fingerprint="cd" * 32,
)


def hostile():
    """The report with such texts wherever text comes from data."""
    every = "".join(EVIL)
    counts = [LabelCount(text, 100, 10, 1.0) for text in EVIL]
    rows = [
        chosen_row(n, file=text, row_id=text, question=text, answer=text, labels=[text], earned=[(text, 1.0)])
        for n, text in enumerate(EVIL)
    ]
    return replace(
        REPORT,
        name=every,
        method=every,
        dropped={every: 1},
        score=every,
        this=figures(every, note=every, sources={text: 1 for text in EVIL}),
        tokenizer=every,
        labels=Labels(9, 1, 0, counts, counts, counts, [MapLabel(count, 0.5, 0.5) for count in counts], [(0, 1)]),
        distributions=[
            *REPORT.distributions,
            Distribution("x", "source", [Bin(text, 0.1, 0.1) for text in EVIL], False, None, None, 200, 40),
        ],
        annotation={
            **REPORT.annotation,
            "failed": {every: 1},
            "languages": {"sampled": 1, "questions": {every: 1}},
            "labels": {**REPORT.annotation["labels"], "most_frequent": dict.fromkeys(EVIL, 1)},
            "tags": {**REPORT.annotation["tags"], "largest_merges": {text: EVIL for text in EVIL}},
            "scores": {**REPORT.annotation["scores"], "from": every},
            "scorer": {"texts": 1, "doubtful": {every: 1}},
        },
        annotated_rows=[AnnotatedRow(0, text, EVIL, 1.0) for text in EVIL],
        first_rows=rows,
        sampled_rows=[replace(row, earned=()) for row in rows],
        notes=EVIL,
        command=every,
        settings={text: text for text in EVIL},
        files=[{"dataset": every, "file": every, "bytes": 1, "sha256": every}],
        versions={every: every},
        fingerprint=every,
    )
