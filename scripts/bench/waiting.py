"""Measure for what share of the time a model waits while ranks run it over the rows of a pool.

    python scripts/demo/make_pool.py --output-dir demo/data --rows 20000
    python scripts/demo/make_tiny_llama.py --pool demo/data/demo_pool.jsonl --output-dir demo/tiny-llama
    torchrun --nproc_per_node 2 scripts/bench/waiting.py demo/tiny-llama demo/data/demo_pool.jsonl

The model waits whenever it is not computing a batch: for rows to be read, sent to the other ranks and tokenized, for
slower ranks, and for results to be stored. Each rank prints its share, and rank 0 the rows per second.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from mig_selector.ranks.group import all_threads, process_group
from mig_selector.ranks.share import shared_results, tokens_per_batch
from mig_selector.ranks.world import connect
from mig_selector.store.matrix import MatrixFile


class TimedModel:
    """A model of transformers whose mean vector of a text is computed, and the time that it computes."""

    def __init__(self, folder: Path, device: Any) -> None:
        """Load it."""
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._network = AutoModel.from_pretrained(folder).to(device).eval()
        self.width = self._network.config.hidden_size
        self.batch_tokens = tokens_per_batch(self._network.device)
        self.seconds = 0.0

    def count_tokens(self, items: Sequence[str]) -> NDArray[np.int64]:
        """Count the tokens of texts."""
        return np.array([len(ids) for ids in self._tokenizer(list(items))["input_ids"]], np.int64)

    def prepare(self, items: Sequence[str]) -> Any:
        """Return padded tokens and their mask."""
        return self._tokenizer(list(items), padding=True, return_tensors="pt")

    def compute(self, batch: Any) -> torch.Tensor:
        """Return the mean of the last hidden states of each text."""
        start = time.perf_counter()
        batch = batch.to(self._network.device)
        with torch.inference_mode():
            states = self._network(**batch).last_hidden_state
            mask = batch["attention_mask"][:, :, None]
            means = (states * mask).sum(dim=1) / mask.sum(dim=1)
        if self._network.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - start
        return means.float()


def read_texts(pool: Path) -> Iterator[str]:
    """Yield the text of each row of a pool of conversations."""
    with pool.open(encoding="utf-8") as lines:
        for line in lines:
            yield "\n".join(turn["content"] for turn in json.loads(line)["dialogs"])


def main() -> None:
    """Run the model on all ranks and print what each has waited."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of a model of transformers")
    parser.add_argument("pool", type=Path, help="JSON Lines file with conversations in a column 'dialogs'")
    arguments = parser.parse_args()
    num_rows = sum(1 for _ in read_texts(arguments.pool))
    with (
        connect() as ranks,
        all_threads(ranks),
        process_group(ranks) as state,
        tempfile.TemporaryDirectory() as folder,
    ):
        model = TimedModel(arguments.model, state.device)
        matrix = MatrixFile(Path(folder) / "vectors.npy", num_rows)
        matrix.begin(model.width)
        ranks.agree(lambda: None)  # all begin at once
        start = time.perf_counter()
        for _, rows in shared_results(read_texts(arguments.pool), model, state, lambda _: None):
            matrix.append(rows)
        seconds = time.perf_counter() - start
    print(f"rank {ranks.rank} of {ranks.world_size}: the model waits {1 - model.seconds / seconds:.1%} of the time")
    if ranks.is_main:
        print(f"{num_rows:,} rows in {seconds:.1f} s: {num_rows / seconds:,.0f} rows a second")


if __name__ == "__main__":
    main()
