"""Time instruction-following difficulty (IFD) scores computed in batches, compared with one row at a time.

    python scripts/bench/ifd.py
    taskset -c 0 python scripts/bench/ifd.py --sizes 64x2 256x4 --words 16

Models are GPT-2s with random weights, of the given sizes (width x layers) and with a vocabulary of 2,000. Rows are
drawn words: the median answer has the given number of words, the median instruction half as many. One row at a time is
the published recipe: two texts, each encoded and run through the model alone. In batches is what mig_selector does:
texts are sorted by length, so that they need little padding, and run together; storing the results on disk is
included. Both load the model. Both run alternately several times, and the fastest of each counts. The largest
difference between the two results is printed with the ratio. Results go to stdout, and to a JSON file with ``--json``.

A batch saves the fixed cost of a forward pass. That is much for short rows, a small model or many cores, and little if
a single row already keeps the cores busy.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # scripts/

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from bench.options import make_parser
from bench.pool.words import draw_words
from bench.results import describe_machine, write_result
from bench.timing import timed
from mig_selector.annotation.ifd import CausalModel, measure_losses, read_ifd
from mig_selector.ranks.world import Ranks


VOCABULARY = 2_000
MAX_TOKENS = 1_024

Row = tuple[str, str, str]


@dataclass
class Result:
    """Results for a model of one size and rows of one length."""

    size: str
    parameters: int
    words: int
    rows: int
    tokens_per_row: float
    """Average number of tokens in both texts together."""
    one_by_one_seconds: float
    batched_seconds: float
    ratio: float
    largest_difference: float
    """Largest relative difference between the two scores of a row."""


def draw_rows(count: int, words: int, seed: int) -> list[Row]:
    """Draw rows whose median answer has `words` words; a few have many more."""
    generator = np.random.default_rng(seed)
    known = draw_words(seed)

    def text(median: float) -> str:
        length = min(1 + int(median * math.exp(generator.normal(0, 0.8))), 400)
        return " ".join(known[index] for index in generator.integers(0, len(known), length))

    return [(text(words / 2), text(words / 2) if generator.random() < 0.3 else "", text(words)) for _ in range(count)]


def make_tokenizer(rows: list[Row]) -> PreTrainedTokenizerFast:
    """Train a byte-level tokenizer on the rows; like GPT-2's, it adds no special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator((text for row in rows for text in row), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def save_model(size: str, seed: int, folder: Path) -> int:
    """Save a random GPT-2 of `size` (width x layers); return its number of parameters."""
    width, layers = (int(part) for part in size.split("x"))
    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=width, n_layer=layers, n_head=max(width // 64, 1))
    model = GPT2LMHeadModel(config)
    model.save_pretrained(folder)
    return int(model.num_parameters())


def score_one_by_one(rows: list[Row], folder: Path) -> tuple[NDArray[np.float64], int]:
    """Score as published, one text at a time; return the scores and the number of tokens read."""
    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    found, tokens = [], 0
    for instruction, context, answer in rows:
        prompt = f"{instruction}\n{context}\n" if context else f"{instruction}\n"
        start = len(tokenizer(prompt)["input_ids"])
        limit = MAX_TOKENS - min(start, MAX_TOKENS) + 1
        alone, ids = mean_loss(answer, 1, limit, model, tokenizer)
        after_prompt, more_ids = mean_loss(prompt + answer, start, MAX_TOKENS, model, tokenizer)
        found.append(math.exp(after_prompt - alone))
        tokens += ids + more_ids
    return np.array(found), tokens


def mean_loss(
    text: str, start: int, limit: int, model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast
) -> tuple[float, int]:
    """Return the mean loss of the tokens from index `start`, and the number of all tokens."""
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


def measure(size: str, words: int, options: argparse.Namespace) -> Result:
    """Score the same rows in both ways."""
    rows = draw_rows(options.rows, words, options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_tokenizer(rows).save_pretrained(folder)
        parameters = save_model(size, options.seed, folder)
        (expected, tokens), found = score_one_by_one(rows, folder), score_in_batches(rows, folder)
        one_by_one, batched = [], []
        for _ in range(options.repeats):
            one_by_one.append(timed(lambda: score_one_by_one(rows, folder))[1])
            batched.append(timed(lambda: score_in_batches(rows, folder))[1])
    return Result(
        size=size,
        parameters=parameters,
        words=words,
        rows=len(rows),
        tokens_per_row=tokens / len(rows),
        one_by_one_seconds=min(one_by_one),
        batched_seconds=min(batched),
        ratio=min(one_by_one) / min(batched),
        largest_difference=float(np.nanmax(np.abs(found / expected - 1))),
    )


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=1_000)
    parser.add_argument("--sizes", nargs="+", default=["64x2"], help="width x layers of each model")
    parser.add_argument("--words", nargs="+", type=int, default=[2, 4, 16, 40], help="words in the median answer")
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    results = []
    for size in options.sizes:
        for words in options.words:
            result = measure(size, words, options)
            print(
                f"{size}, {result.parameters:,} weights, {result.rows:,} rows of {result.tokens_per_row:.0f} tokens: "
                f"one by one {result.one_by_one_seconds:.2f} s, in batches {result.batched_seconds:.2f} s, "
                f"{result.ratio:.1f} times faster; largest difference {result.largest_difference:.1e}",
                flush=True,
            )
            results.append(asdict(result))
    write_result(options.json, {"machine": describe_machine(), "results": results})


if __name__ == "__main__":
    main()
