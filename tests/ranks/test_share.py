import json
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mig_selector.errors import ArgumentError
from mig_selector.ranks import share
from mig_selector.ranks.share import cut_batches, deal_batches, fill_matrix
from mig_selector.ranks.world import Ranks
from mig_selector.store.matrix import MatrixFile


CHUNK, BUDGET = 16, 40
PROGRAM = """
import json, sys
from pathlib import Path
from mig_selector.errors import EmbeddingError, MigSelectorError
from mig_selector.ranks import share
from mig_selector.ranks.world import connect
from mig_selector.store.matrix import MatrixFile
sys.path.insert(0, sys.argv[1])
from test_share import CHUNK, Widths, all_items, fill
share.CHUNK_ITEMS = CHUNK
out = Path(sys.argv[2])
with connect() as ranks:
    for count in json.loads(sys.argv[3]):
        model, reported = Widths(), []
        fill(out / f"{count}.npy", count, model, ranks=ranks, on_items=reported.append)
        (out / f"{count}-{ranks.rank}.json").write_text(json.dumps([model.computed, model.encoded, sum(reported)]))
import torch.distributed as dist
from accelerate.state import PartialState
assert not dist.is_initialized() and PartialState._shared_state == {}, "process group or accelerate state left behind"


class Breaks(Widths):
    def compute(self, batch):
        if ranks.rank == 1:
            raise EmbeddingError("the model has had enough")
        return super().compute(batch)


try:
    with connect() as ranks:
        fill(out / "broken.npy", 70, Breaks(), ranks=ranks)
except MigSelectorError as error:
    message = str(error)
(out / f"broken-{ranks.rank}.txt").write_text(message)
"""


class Widths:
    """Returns for each item its length, the number of rows in its batch, and the length of the longest of them.

    Index and characters of an item are encoded, so it counts one more than its text has.
    """

    width, batch_tokens = 3, BUDGET

    def __init__(self):
        self.computed, self.encoded, self.batches, self.threads = [], [], [], set()

    def encode(self, items):
        self.encoded += [index for index, _ in items]
        self.threads.add(threading.current_thread().name)
        return [np.array([index, *map(ord, text)], np.int32) for index, text in items]

    def compute(self, batch):
        import torch

        self.computed += [int(item[0]) for item in batch]
        lengths = [len(item) for item in batch]
        self.batches.append(lengths)
        return torch.tensor([[length, len(batch), max(lengths)] for length in lengths], dtype=torch.float32)


def all_items(count):
    """Numbered texts of any length, some empty, one longer than a batch."""
    lengths = np.random.default_rng(count).integers(0, 25, count)
    return [(index, "é" * int(length if index != 5 else 2 * BUDGET)) for index, length in enumerate(lengths)]


def fill(path, count, model, *, ranks=None, on_items=lambda _: None, items=all_items):
    fill_matrix(MatrixFile(path, count), lambda: iter(items(count)), lambda _: model, ranks or Ranks(), on_items)
    return np.load(path) if path.exists() else None


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(share, "CHUNK_ITEMS", CHUNK)


def naive(count):
    """Return the expected results: chunk by chunk, longest first, as many items to a batch as fit."""
    rows = [None] * count
    for start in range(0, count, CHUNK):
        left = sorted(all_items(count)[start : start + CHUNK], key=lambda item: (-len(item[1]), item[0]))
        while left:
            batch = [left.pop(0)]
            while left and (len(batch[0][1]) + 1) * (len(batch) + 1) <= BUDGET:
                batch.append(left.pop(0))
            for index, text in batch:
                rows[index] = [len(text) + 1, len(batch), len(batch[0][1]) + 1]
    return np.array(rows, np.float32)


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 60))
def test_batches_hold_every_item_once_and_no_more_tokens_than_allowed(lengths, budget):
    counts = np.array(lengths, np.int64)
    batches = [batch.tolist() for batch in cut_batches(counts, budget)]
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(max(counts[batch]), 1) <= budget
    order = [index for batch in batches for index in batch]
    assert order == sorted(order, key=lambda index: (-counts[index], index))
    for batch in batches[:-1]:
        assert (len(batch) + 1) * max(counts[batch[0]], 1) > budget, "the first of the next batch would have fitted"


@given(st.lists(st.integers(0, 30), max_size=60), st.integers(1, 5))
def test_ranks_get_batches_of_about_the_same_number_of_tokens(lengths, num_ranks):
    counts = np.array(lengths, np.int64)
    batches = cut_batches(counts, BUDGET)
    shares = deal_batches(batches, counts, num_ranks)
    assert sorted(batch.tolist() for own in shares for batch in own) == sorted(batch.tolist() for batch in batches)
    tokens = [[len(batch) * max(int(counts[batch[0]]), 1) for batch in own] for own in shares]
    sums = list(map(sum, tokens))
    assert max(sums) - min(sums) <= max(map(max, filter(None, tokens)), default=0)


@pytest.mark.parametrize("count", [1, CHUNK, CHUNK + 1, 70])
def test_results_come_in_the_order_of_the_items(tmp_path, count):
    model, reported = Widths(), []
    found = fill(tmp_path / "m.npy", count, model, on_items=reported.append)
    assert np.array_equal(found, naive(count))
    assert sorted(model.computed) == list(range(count))
    assert sum(reported) == count


def test_a_complete_matrix_loads_no_model(tmp_path):
    fill(tmp_path / "m.npy", 20, Widths())
    calls = []
    fill_matrix(MatrixFile(tmp_path / "m.npy", 20), lambda: calls.append("read"), calls.append, Ranks(), calls.append)
    assert calls == []


@pytest.mark.parametrize("chunks", [0, 1, 3])
def test_an_interrupted_run_resumes_with_the_same_batches(tmp_path, chunks):
    path, reported = tmp_path / "m.npy", []

    def some_items(count):
        yield from all_items(count)[: chunks * CHUNK + 3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(path, 70, Widths(), items=some_items)
    model = Widths()
    found = fill(path, 70, model, on_items=reported.append)
    assert np.array_equal(found, naive(70))
    assert sorted(model.computed) == list(range(chunks * CHUNK, 70))
    assert (reported[0], sum(reported)) == (chunks * CHUNK, 70)


@pytest.mark.parametrize(("seconds", "largest"), [(60, 4 * CHUNK), (0, CHUNK)])
def test_rounds_that_take_no_time_grow_and_others_do_not(tmp_path, monkeypatch, seconds, largest):
    monkeypatch.setattr(share, "_ROUND_SECONDS", seconds)
    monkeypatch.setattr(share, "_MOST_CHUNKS", 4)
    sizes = []

    class Stored(MatrixFile):
        def append(self, rows):
            sizes.append(len(rows))
            super().append(rows)

    count = 40 * CHUNK + 3
    fill_matrix(Stored(tmp_path / "m.npy", count), lambda: iter(all_items(count)), lambda _: Widths(), Ranks(), print)
    assert np.array_equal(np.load(tmp_path / "m.npy"), naive(count))
    *whole, rest = sizes
    assert max(whole) == largest
    assert whole == sorted(whole)
    assert rest % CHUNK == 3
    assert not any(size % CHUNK for size in whole)


def test_rounds_shrink_again_where_they_take_long():
    with share._thread() as reader:
        rounds = share._Rounds(iter(()), SimpleNamespace(num_processes=2, is_main_process=True), reader)
    sizes = []
    for seconds in [0.1, 1.9, 3.0, 9.0, 9.0, 9.0]:
        rounds.resize(rounds._size, seconds)
        rounds.resize(1, seconds)  # of another size: says nothing
        sizes.append(rounds._size // CHUNK)
    assert sizes == [4, 8, 8, 4, 2, 2]


def test_a_single_rank_that_torchrun_started_leaves_no_process_group(tmp_path, monkeypatch):
    from torch import distributed

    variables = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    for name, value in {**variables, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    fill(tmp_path / "m.npy", 20, Widths())
    assert not distributed.is_initialized()
    assert {name: os.environ.get(name) for name in variables} == variables


def test_one_thread_reads_the_items_and_one_other_encodes_them(tmp_path):
    model, readers = Widths(), set()

    def read(count):
        for item in all_items(count):
            readers.add(threading.current_thread().name)
            yield item

    fill(tmp_path / "m.npy", 70, model, items=read)
    assert (len(readers), len(model.threads)) == (1, 1)
    assert not {threading.current_thread().name} & (readers | model.threads)
    assert not readers & model.threads
    assert all(not thread.name.startswith("ThreadPoolExecutor") for thread in threading.enumerate())


class Small(Widths):
    """Has no memory for more than a number of texts at once."""

    def __init__(self, most):
        super().__init__()
        self.most = most

    def compute(self, batch):
        import torch

        if len(batch) > self.most:
            raise torch.OutOfMemoryError("no memory")
        return super().compute(batch)


@pytest.mark.parametrize("most", [1, 3])
def test_a_batch_that_is_too_large_for_the_memory_is_halved(tmp_path, caplog, most):
    model, whole = Small(most), Widths()
    found = fill(tmp_path / "m.npy", 70, model)
    assert np.array_equal(found[:, 0], naive(70)[:, 0])
    assert found[:, 1].max() == most
    assert sorted(model.computed) == list(range(70))
    fill(tmp_path / "whole.npy", 70, whole)
    assert any(len(batch) > 3 for batch in whole.batches)
    assert "texts at once; they are computed in halves" in caplog.text


def test_a_single_text_that_is_too_large_for_the_memory_is_an_error(tmp_path):
    with pytest.raises(ArgumentError, match="the GPU has too little memory for a single text of the pool; use"):
        fill(tmp_path / "m.npy", 70, Small(0))


@pytest.mark.parametrize(("given", "words"), [(19, "has 19 of 20 rows"), (21, "cannot be appended to 16 of 20 rows")])
def test_a_wrong_number_of_items_is_a_value_error(tmp_path, given, words):
    with pytest.raises(ValueError, match=words):
        fill(tmp_path / "m.npy", 20, Widths(), items=lambda _: all_items(given))


@pytest.mark.distributed
def test_two_ranks_share_the_work_and_the_model_sees_what_one_would_see(tmp_path):
    program = tmp_path / "rank.py"
    program.write_text(PROGRAM)
    counts = [1, 2, CHUNK + 1, 70]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    here = __file__.rpartition("/")[0]
    done = subprocess.run(
        [sys.executable, *torchrun, program, here, tmp_path, json.dumps(counts)], check=False, timeout=120
    )
    assert done.returncode == 0
    for count in counts:
        assert np.array_equal(np.load(tmp_path / f"{count}.npy"), naive(count))
        computed, encoded, reported = zip(
            *(json.loads((tmp_path / f"{count}-{rank}.json").read_text()) for rank in range(2)), strict=True
        )
        for shares in (computed, encoded):
            assert sorted(shares[0] + shares[1]) == list(range(count))
            assert min(map(len, shares)) > 0 or count <= 2
        assert reported[0] == count
    said = {(tmp_path / f"broken-{rank}.txt").read_text() for rank in range(2)}
    assert len(said) == 1
    assert said.pop().startswith("the model has had enough (rank 1 on ")
    assert not (tmp_path / "broken.npy").exists()
