"""Small benchmarks in the published formats."""

import json

import yaml

from mig_selector.evaluation import tasks


BBH = yaml.safe_load((tasks.SETTINGS / "bbh.yaml").read_text())["dataset_name"]


def write_punkt(folder):
    """Write NLTK's model of sentences with nothing learnt, and return its data folder."""
    model = folder / "nltk_data" / "tokenizers" / "punkt_tab" / "english"
    model.mkdir(parents=True)
    for name in ("abbrev_types.txt", "collocations.tab", "ortho_context.tab", "sent_starters.txt"):
        (model / name).touch()
    return folder / "nltk_data"


def write_benchmarks(folder):
    """Write a few rows of each benchmark where ``--data-dir`` looks for them, in the format of the hub's copies."""
    arc = [
        {"id": "a", "question": "What falls?", "choices": choices("ABCD", "apple moon sun sky"), "answerKey": "A"},
        {"id": "b", "question": "Which are few?", "choices": choices("ABC", "one two three"), "answerKey": "C"},
        {"id": "c", "question": "What is hot?", "choices": choices("1234", "ice sun sea air"), "answerKey": "2"},
    ]
    _write(folder / "allenai" / "ai2_arc", {("ARC-Challenge", "validation"): arc})
    bbh = {name: [{"input": f"{name}?", "target": "(A)"}, {"input": "not False is", "target": "True"}] for name in BBH}
    _write(folder / "SaylorTwift" / "bbh", {(name, "test"): rows for name, rows in bbh.items()})
    gsm8k = [{"question": f"What is 2 times {n}?", "answer": f"<<2*{n}={2 * n}>>\n#### {2 * n:,}"} for n in (2, 700)]
    _write(folder / "openai" / "gsm8k", {("main", "test"): gsm8k})
    mmlu = [
        {"question": f"{subject} {n}?", "subject": subject, "choices": ["w", "x", "y", "z"], "answer": n % 4}
        for n in range(6)
        for subject in ("astronomy", "high_school_physics")
    ]
    _write(folder / "cais" / "mmlu", {("all", "test"): mmlu[:4], ("all", "dev"): mmlu})
    ifeval = [
        {
            "key": 1000 + number,
            "prompt": "Write without commas.",
            "instruction_id_list": ["punctuation:no_comma"],
            "kwargs": [{"num_words": None, "relation": None}],
        }
        for number in range(2)
    ]
    _write(folder / "google" / "IFEval", {("default", "train"): ifeval})
    write_punkt(folder)
    return folder


def choices(labels, texts):
    """The choices of a question of ARC; some questions have three, and some number them."""
    return {"text": texts.split(), "label": list(labels)}


def _write(folder, tables):
    """Write a copy of a dataset of the hub: a file for each configuration and split, and the page that names them."""
    configs = {}
    for (config, split), rows in tables.items():
        file = folder / config / f"{split}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        configs.setdefault(config, []).append({"split": split, "path": f"{config}/{split}.jsonl"})
    listed = [{"config_name": name, "data_files": found} for name, found in configs.items()]
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': listed})}---\n")
