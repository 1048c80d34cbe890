"""Time the scoring of instruction-following difficulty in batches against one row at a time, on one pool.

    python scripts/bench_ifd.py
    python scripts/bench_ifd.py --sizes 768x12 --rows 48

Models are random GPT-2s of the given sizes (width x layers) with a vocabulary of 8,192, made on the spot; texts are
drawn words. One row at a time is the published recipe: two texts, each encoded and run through the model alone. In
batches is what mig_selector does: texts sorted by length, padded little, run together; keeping the results on disk is
included. Both load the model. The ratio is that of one run, and the largest difference of the two results is printed
with it. Results go to stdout, and to a JSON file with ``--json``.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from bench_pool.words import draw_words
from bench_workplace import describe_machine, write_result
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from mig_selector.annotation.ifd import CausalModel, measure_losses, read_ifd
from mig_selector.ranks.world import Ranks


VOCABULARY = 8_192
MAX_TOKENS = 1_024

Row = tuple[str, str, str]


@dataclass
class Result:
    """What was found for a model of one size."""

    size: str
    parameters: int
    rows: int
    tokens: int
    one_by_one_seconds: float
    batched_seconds: float
    ratio: float
    largest_difference: float
    """Of the difficulties of a row, relative."""


def draw_rows(count: int, seed: int) -> list[Row]:
    """Draw rows: half have instructions of up to 20 words and answers of up to 40, a few have much longer ones."""
    generator = np.random.default_rng(seed)
    words = draw_words(seed)

    def text(median: float) -> str:
        length = 1 + int(median * math.exp(generator.normal(0, 0.8)))
        return " ".join(words[place] for place in generator.integers(0, len(words), min(length, 400)))

    return [(text(20), text(15) if generator.random() < 0.3 else "", text(40)) for _ in range(count)]


def make_tokenizer(rows: list[Row]) -> PreTrainedTokenizerFast:
    """Train a byte-level tokenizer on the rows; like that of GPT-2 it adds nothing to a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator((text for row in rows for text in row), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def save_model(size: str, seed: int, folder: Path) -> int:
    """Make a random GPT-2 of `size`, width x layers; return how many weights it has."""
    width, layers = (int(part) for part in size.split("x"))
    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=width, n_layer=layers, n_head=max(width // 64, 1))
    model = GPT2LMHeadModel(config)
    model.save_pretrained(folder)
    return int(model.num_parameters())


def score_one_by_one(rows: list[Row], folder: Path) -> tuple[NDArray[np.float64], int]:
    """Score as published: every text alone; return difficulties and tokens read."""
    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    found, tokens = [], 0
    for instruction, context, answer in rows:
        prompt = f"{instruction}\n{context}\n" if context else f"{instruction}\n"
        start = len(tokenizer(prompt)["input_ids"])
        limit = MAX_TOKENS - min(start, MAX_TOKENS) + 1
        alone, ids = mean_loss(answer, 1, limit, model, tokenizer)
        behind, more_ids = mean_loss(prompt + answer, start, MAX_TOKENS, model, tokenizer)
        found.append(math.exp(behind - alone))
        tokens += ids + more_ids
    return np.array(found), tokens


def mean_loss(
    text: str, start: int, limit: int, model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast
) -> tuple[float, int]:
    """Return the mean loss from token `start` on, and the number of tokens."""
    ids = tokenizer(text, truncation=True, max_length=limit, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        logits = model(ids, use_cache=False).logits[0, start - 1 : -1]
        return cross_entropy(logits, ids[0, start:]).item(), ids.shape[1]


def score_in_batches(rows: list[Row], folder: Path) -> NDArray[np.float64]:
    """Score as mig_selector does."""
    model = CausalModel("the model", str(folder), max_tokens=MAX_TOKENS)
    with tempfile.TemporaryDirectory() as cache:
        path = measure_losses(lambda: rows, len(rows), model, Path(cache) / "losses.npy", Ranks(), lambda _: None)
        return read_ifd(path)


def measure(size: str, rows: list[Row], tokenizer: PreTrainedTokenizerFast, seed: int) -> Result:
    """Score the rows in both ways."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        parameters = save_model(size, seed, Path(folder))
        for score in (score_one_by_one, score_in_batches):
            score(rows[:4], Path(folder))  # what is done once is done now
        start = time.perf_counter()
        expected, tokens = score_one_by_one(rows, Path(folder))
        between = time.perf_counter()
        found = score_in_batches(rows, Path(folder))
        end = time.perf_counter()
    return Result(
        size=size,
        parameters=parameters,
        rows=len(rows),
        tokens=tokens,
        one_by_one_seconds=between - start,
        batched_seconds=end - between,
        ratio=(between - start) / (end - between),
        largest_difference=float(np.nanmax(np.abs(found / expected - 1))),
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000)
    parser.add_argument("--sizes", nargs="+", default=["64x2", "128x4", "256x6"], help="width x layers of each model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the result here, too")
    options = parser.parse_args()
    rows = draw_rows(options.rows, options.seed)
    tokenizer = make_tokenizer(rows)
    results = []
    for size in options.sizes:
        result = measure(size, rows, tokenizer, options.seed)
        print(
            f"{size}: {result.parameters:,} weights, {result.rows:,} rows, {result.tokens:,} tokens: one by one "
            f"{result.one_by_one_seconds:.2f} s, in batches {result.batched_seconds:.2f} s, {result.ratio:.1f} times "
            f"faster; largest difference {result.largest_difference:.1e}"
        )
        results.append(asdict(result))
    write_result(options.json, {"machine": describe_machine(), "results": results})


if __name__ == "__main__":
    main()
