"""What tests share: small pools made on the spot, a workplace to select in, commands of this environment."""

import json
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from mig_selector.pool.entry import LocalSource, PoolEntry
from mig_selector.pool.formats.files import open_sources
from mig_selector.pool.index.cache import IndexCache
from mig_selector.pool.index.judge import RowJudge
from mig_selector.pool.index.numbers import StoredNumbers
from mig_selector.pool.leaves.labels import StoredLabels
from mig_selector.pool.reading import read_pool
from mig_selector.store.hashing import ContentHashes


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"
"""Data that may not be published. A test that needs them is marked `shared_data`, and has a twin that does not."""

TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
}
SHAREGPT = {"formatting": "sharegpt", "columns": {"messages": "dialogs"}, "tags": TAGS}
QUESTION_WORDS = ["how", "what", "why", "explain", "describe", "list", "write", "about", "equation", "cell", "soup"]
LABELS = ["algebra", "biology", "cooking", "drawing", "economics", "fishing", "grammar", "history"]


def make_row(number, labels, score, **more):
    """One row in the shape of the published pools; its quality times complexity is `score`."""
    return {
        "dialogs": [
            {"role": "user", "content": f"question {number}"},
            {"role": "assistant", "content": f"answer {number}"},
        ],
        "source": ["test"],
        "_id": f"id{number}",
        "annotation": {
            "instag": {"content": labels},
            "dialog_round": 1,
            "deita": {"quality_scores": [score], "complexity_scores": [1.0]},
        },
        **more,
    }


def make_rows(count, seed=0):
    """Rows with one to three of eight labels and scores between 1 and 6."""
    rng = np.random.default_rng(seed)
    return [
        make_row(
            number,
            [LABELS[place] for place in rng.choice(len(LABELS), rng.integers(1, 4), replace=False)],
            round(float(rng.uniform(1, 6)), 4),
        )
        for number in range(count)
    ]


def make_raw_rows(count, seed=0):
    """Bare rows of alpaca: a question of two to six known words, an input now and then, and an answer."""
    rng = np.random.default_rng(seed)
    words = [*LABELS, *QUESTION_WORDS]
    return [
        {
            "instruction": " ".join(rng.choice(words, rng.integers(2, 7))),
            "input": str(rng.choice(words)) if number % 3 == 0 else "",
            "output": " ".join(rng.choice(words, rng.integers(1, 30))) + f" {seed}.{number}",
        }
        for number in range(count)
    ]


def write_word_encoder(folder, words):
    """Write a sentence-transformers model whose vector of a text is the mean of random vectors of its words."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    known = {word: number for number, word in enumerate(["[UNK]", *words])}
    tokenizer = Tokenizer(WordLevel(known, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    weights = np.random.default_rng(0).normal(size=(len(known), 16)).astype(np.float32)
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)], device="cpu").save(
        str(folder)
    )


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def published_lines():
    """Ten lines in the layout of those that the authors of MIG published, with the same stray brace in the third."""
    rng = np.random.default_rng(11)
    texts = ["translate this code:\n\tdef f(x): ...", "Выполните задание", "列出 10 年", 'say "\\( p \\)"', "a 🙂 é"]
    lines = []
    for number in range(10):
        turns = 2 if number == 5 else 1
        labels = [LABELS[index] for index in rng.choice(len(LABELS), rng.integers(1, 6), replace=False)]
        row = {
            "dialogs": [
                {"role": role, "content": f"{texts[number % len(texts)]} {number}.{turn}"}
                for turn in range(turns)
                for role in ("user", "assistant")
            ],
            "source": [f"source-{number % 3}"],
            "_id": rng.bytes(12).hex(),
            "ifd_score": {"version": 100, "content": float(rng.uniform(0, 1))},
            "annotation": {
                "instag": {"content": labels, "versions": [100] * len(labels)},
                "dialog_round": turns,
                "CaR": [float(rng.uniform(0, 1))],
                "deita": {
                    "quality_scores": rng.uniform(1, 6, turns).tolist(),
                    "complexity_scores": rng.uniform(1, 6, turns).tolist(),
                },
            },
        }
        lines.append(json.dumps(row, ensure_ascii=False))
    lines[2] = lines[2].replace(', "annotation"', ', "versions": [100, 100, 100]}, "annotation"')
    return lines


def write_demo_pool(folder, rows):
    """Write the pool of the demo, and its entry `demo_pool` in dataset_info.json, into a folder."""
    words = [ROOT / "scripts" / "demo" / "make_pool.py", "--output-dir", folder, "--rows", str(rows), "--seed", "0"]
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    return folder / "demo_pool.jsonl"


def write_tiny_llama(folder, pool):
    """Write a random Llama of 330,000 weights, with a tokenizer that has read the pool."""
    words = [ROOT / "scripts" / "demo" / "make_tiny_llama.py", "--pool", pool, "--output-dir", folder]
    subprocess.run([sys.executable, *words], check=True, capture_output=True)


class Workplace:
    """A dataset_dir with one pool, label vectors made elsewhere, and the settings to select from it."""

    def __init__(self, folder):
        self.folder = folder
        self.data = folder / "data"
        self.data.mkdir(parents=True)
        self.vectors = folder / "vectors.npz"
        write_vectors(self.vectors, LABELS)

    def add(self, name, rows=None, *, file_name=None, **entry):
        """Register a dataset, and write its rows as JSON Lines if they are given."""
        file_name = file_name or f"{name}.jsonl"
        if rows is not None:
            write_lines(self.data / file_name, rows)
        path = self.data / "dataset_info.json"
        entries = json.loads(path.read_text()) if path.exists() else {}
        place = {} if "hf_hub_url" in entry else {"file_name": file_name}
        entries[name] = {**place, **(entry or SHAREGPT)}
        path.write_text(json.dumps(entries, indent=2))

    def settings(self, **more):
        return {
            "dataset": "pool",
            "dataset_dir": str(self.data),
            "mig_label_embeddings": str(self.vectors),
            "mig_num_samples": 10,
            "mig_report": "none",  # takes a tenth of a second; test_report.py asks for it
            **more,
        }

    def entries(self):
        return json.loads((self.data / "dataset_info.json").read_text())


def contents_of(sources, hashes):
    """The hashes of the files of each source, entry by entry."""
    return [[[hashes.file(file) for file in source.files] for source in files] for files in sources]


def judge_of(labels, score, *, turns="mean", is_signed=False, required=(), separator=None):
    """A judge by the path of labels (or a list of them), and the name of a score or the path of a stored one."""
    deita = ("annotation.deita.quality_scores", "annotation.deita.complexity_scores")
    if score == "deita":
        numbers = StoredNumbers(deita, f"{turns} of products", elsewhere=("quality_scores", "complexity_scores"))
    elif isinstance(score, list):
        numbers = StoredNumbers(tuple(score), f"{turns} of products")
    else:
        paths = {"ifd": ("ifd_score.content",), "num_labels": (), "constant": ()}.get(score, (score,))
        numbers = StoredNumbers(paths, is_signed=is_signed)
    paths = (labels,) if isinstance(labels, str) else tuple(labels or ())
    return RowJudge(StoredLabels(paths, separator), numbers, required=StoredNumbers(tuple(required)))


def read_file(path, on_bad_row="error", labels="labels", score="score"):
    """Read a file, or a folder of them, as a pool, with a cache of its own."""
    columns = {"prompt": "instruction", "query": "input", "response": "output"}
    entry = PoolEntry("pool", "alpaca", columns, {}, False, LocalSource(path.name, path), "train")
    with tempfile.TemporaryDirectory() as cache:
        hashes, sources = ContentHashes(Path(cache)), [open_sources(entry)]
        file_hashes, index_cache = contents_of(sources, hashes), IndexCache(Path(cache), hashes)
        judge = judge_of(labels, score)
        return read_pool([entry], sources, file_hashes, [judge], on_bad_row, lambda count: None, index_cache)


def write_vectors(path, labels, seed=0):
    """Random vectors in 8 dimensions: at a threshold of 0.5 some labels are joined."""
    vectors = np.random.default_rng(seed).normal(size=(len(labels), 8)) + 0.5
    np.savez(path, labels=np.array(labels), embeddings=vectors.astype(np.float32))


@contextmanager
def half_the_cores():
    """Allow as many threads as each of two ranks has: the last bits of what a model computes depend on them."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[: max(len(cores) // 2, 1)])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def run_command(*words, env=None, cwd=None, timeout=300):
    """Run a command of this environment; return code, stdout and stderr."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [str(word) for word in words],
        env={**os.environ, "PATH": path, **(env or {})},
        cwd=cwd,
        timeout=timeout,
        capture_output=True,
        text=True,
        check=False,
    )
