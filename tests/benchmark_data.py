"""Small benchmarks in the published formats."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
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


WILDBENCH_REFERENCES = ("gpt-4-turbo-2024-04-09", "claude-3-haiku-20240307", "Llama-2-70b-chat-hf")


def write_judged_benchmarks(folder):
    """Write a few questions of each judged benchmark where ``--data-dir`` looks for them, as they are published."""
    questions = [
        {"question_id": 81, "category": "writing", "turns": ["Write a poem.", "Make it shorter."]},
        {"question_id": 111, "category": "math", "turns": ["What is 2 + 2?", "And twice that?"]},
    ]
    reference = {"question_id": 111, "model_id": "gpt-4", "choices": [{"index": 0, "turns": ["It is 4.", "It is 8."]}]}
    write_json_lines(folder / "mt_bench" / "question.jsonl", questions)
    write_json_lines(folder / "mt_bench" / "reference_answer" / "gpt-4.jsonl", [reference])
    outputs = [
        {"instruction": f"Name {n} colours.", "output": f"reference {n}", "generator": "gpt4_1106_preview"}
        for n in range(1, 7)
    ]
    file = folder / "tatsu-lab" / "alpaca_eval" / "alpaca_eval_gpt4_baseline.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(outputs))
    talk = [("user", "Which city?"), ("assistant", "Rome costs $5."), ("user", "Why?")]
    conversations = [[("user", "Plan a trip.")], talk]
    rows = [
        {
            "session_id": f"s{number}",
            "conversation_input": [{"role": role, "content": text, "language": "English"} for role, text in turns],
            "checklist": ["Is it clear?", "Is it true?"],
            "primary_tag": "Planning",
        }
        for number, turns in enumerate(conversations)
    ]
    write_parquet(folder / "allenai" / "WildBench" / "v2" / "test-00000-of-00001.parquet", rows)
    for model in WILDBENCH_REFERENCES:
        answers = [{"session_id": f"s{number}", "output": [f"{model} on s{number}"]} for number in (1, 0)]
        write_parquet(folder / "allenai" / "WildBench-V2-Model-Outputs" / model / "train.parquet", answers)
    return folder


def write_json_lines(file, rows):
    """Write a file of JSON Lines, and the folders above it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_parquet(file, rows):
    """Write a Parquet file, and the folders above it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file)
