"""Measure for what share of the time a model waits while ranks run it over the rows of a pool.

    python scripts/demo/make_pool.py --output-dir demo/data --rows 20000
    python scripts/demo/make_tiny_llama.py --pool demo/data/demo_pool.jsonl --output-dir demo/tiny-llama
    torchrun --nproc_per_node 2 scripts/bench/waiting.py demo/tiny-llama demo/data/demo_pool.jsonl

The model waits whenever it is not computing a batch. Each rank prints for what share of the time, and for what: its
part of the text from rank 0, the tokens and the results of the other ranks (both mean slower ranks), and its own
threads, which read, tokenize and store. Rank 0 also prints the rows per second.
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

from mig_selector.ranks import share
from mig_selector.ranks.group import all_threads, process_group
from mig_selector.ranks.models import pad_tokens
from mig_selector.ranks.share import tokens_per_batch
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

    def encode(self, items: Sequence[str]) -> list[NDArray[np.int32]]:
        """Return the tokens of texts."""
        return [np.array(ids, np.int32) for ids in self._tokenizer(list(items))["input_ids"]]

    def compute(self, batch: Sequence[NDArray[np.int32]]) -> torch.Tensor:
        """Return the mean of the last hidden states of each text."""
        start = time.perf_counter()
        ids, mask = pad_tokens(batch, self._network.device)
        with torch.inference_mode():
            states = self._network(input_ids=ids, attention_mask=mask).last_hidden_state
            means = (states * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        if self._network.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - start
        return means.float()


class Waits:
    """Measures the time in a function that `ranks.share` calls."""

    def __init__(self, name: str) -> None:
        """Put a timed function in its place."""
        function, self.seconds = getattr(share, name), 0.0

        def timed(*arguments: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                self.seconds += time.perf_counter() - start

        setattr(share, name, timed)


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
        waits = {"text": Waits("scatter"), "tokens": Waits("gather_arrays"), "results": Waits("gather_rows")}
        ranks.agree(lambda: None)  # all begin at once
        start = time.perf_counter()
        share.compute_shared(read_texts(arguments.pool), model, state, matrix.append, lambda _: None)
        seconds = time.perf_counter() - start
    shares = {name: wait.seconds / seconds for name, wait in waits.items()}
    total = 1 - model.seconds / seconds
    shares["own threads"] = total - sum(shares.values())
    causes = ", ".join(f"{name} {part:.1%}" for name, part in shares.items())
    print(f"rank {ranks.rank} of {ranks.world_size}: the model waits {total:.1%} of the time: {causes}")
    if ranks.is_main:
        print(f"{num_rows:,} rows in {seconds:.1f} s: {num_rows / seconds:,.0f} rows a second")


if __name__ == "__main__":
    main()
