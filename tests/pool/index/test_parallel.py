import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import judge_of

from mig_selector.errors import PoolError
from mig_selector.pool.formats.json_lines import JsonLinesSource
from mig_selector.pool.formats.parquet import ParquetSource
from mig_selector.pool.index import parallel


class TestProcesses:
    """Several processes scan the spans of one file."""

    @pytest.fixture
    def source(self, tmp_path, monkeypatch):
        monkeypatch.setattr(parallel, "_PARALLEL_BYTES", 0)
        monkeypatch.setattr(parallel, "_SPAN_BYTES", 4_000)
        monkeypatch.setattr(os, "sched_getaffinity", lambda number: {0, 1})

        def write(bad_line=None):
            lines = [json.dumps({"t": [f"label {n % 7}", f"ü{n % 5}"], "s": n / 8}) for n in range(1_000)]
            if bad_line:
                lines[bad_line] = "{"
            path = tmp_path / "pool.jsonl"
            path.write_text("\n".join(lines) + "\n")
            return JsonLinesSource(path, "pool.jsonl")

        return write

    def parts_of(self, source, seen):
        judge = judge_of("t", "s")
        with parallel.Readers(source.size, seen.append, stop_at_unreadable=False) as readers:
            return list(readers.index_spans(source, judge))

    def test_spans_come_in_order_and_make_up_the_whole(self, source):
        pool = source(bad_line=700)
        seen = []
        parts = self.parts_of(pool, seen)
        assert sum(seen) == pool.size
        assert len(parts) > 4
        rows = np.concatenate([part.scores for part in parts])
        assert rows.tolist() == [n / 8 for n in range(1_000) if n != 700]
        assert sum(part.tally.rows for part in parts) == 1_000

    def strict_readers(self):
        return parallel.Readers(10**9, lambda n: None, stop_at_unreadable=True)

    @pytest.fixture
    def readers(self, source):
        with self.strict_readers() as readers:
            yield readers

    def test_they_are_two_serve_several_files_and_end_with_the_block(self, source):
        with self.strict_readers() as readers:
            assert not children()
            next(readers.index_spans(source(), judge_of("t", "s")))
            mine = children()
            assert len(mine) == 2
            assert sum(len(part.scores) for part in readers.index_spans(source(), judge_of("t", "s"))) == 1_000
            assert children() == mine
        assert not children()

    def test_one_that_exits_early_is_an_error(self, readers, source):
        parts = readers.index_spans(source(), judge_of("t", "s"))
        next(parts)
        for child in children():
            os.kill(int(child), signal.SIGKILL)
        with pytest.raises(PoolError, match=r"a process that read pool\.jsonl exited unexpectedly"):
            list(parts)

    def test_an_error_in_one_of_them_is_reported_as_it_is(self, tmp_path, readers):
        path = tmp_path / "pool.parquet"
        table = pa.table({"t": [["a"]] * 50_000, "s": np.arange(50_000.0)})
        pq.write_table(table, path, row_group_size=5_000, compression="none", use_dictionary=False)
        pool = ParquetSource(path, "pool.parquet")
        data = bytearray(path.read_bytes())
        data[len(data) // 2 : len(data) // 2 + 100_000] = bytes(100_000)
        path.write_bytes(data)
        with pytest.raises(PoolError, match=r"pool\.parquet: cannot be read as Parquet"):
            list(readers.index_spans(pool, judge_of("t", "s")))
        path.unlink()
        with pytest.raises(PoolError, match=r"pool\.parquet"):
            list(readers.index_spans(pool, judge_of("t", "s")))

    def test_they_end_with_a_process_that_is_killed(self, source):
        pool = source()
        code = (
            "import sys; from pathlib import Path; from mig_selector.pool.index import parallel\n"
            "from mig_selector.pool.index.judge import RowJudge\n"
            "from mig_selector.pool.index.numbers import StoredNumbers\n"
            "from mig_selector.pool.leaves.labels import StoredLabels\n"
            "from mig_selector.pool.formats.json_lines import JsonLinesSource\n"
            "parallel._SPAN_BYTES = 4_000\n"
            "judge = RowJudge(StoredLabels(('t',)), StoredNumbers(('s',)))\n"
            "readers = parallel.Readers(10**9, lambda n: None, stop_at_unreadable=True)\n"
            "parts = readers.index_spans(JsonLinesSource(Path(sys.argv[1]), 'p'), judge)\n"
            "next(parts); print('reading', flush=True); sys.stdin.read()\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(pool.files[0])], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdout.readline() == b"reading\n"
        workers = children(process.pid)
        assert len(workers) == len(os.sched_getaffinity(process.pid)) or len(workers) == 16
        process.kill()
        process.communicate(timeout=30)
        deadline = time.monotonic() + 20
        while any(
            Path(f"/proc/{worker}/status").exists() and "(zombie)" not in state_of(worker) for worker in workers
        ):
            assert time.monotonic() < deadline
            time.sleep(0.1)

    @pytest.mark.parametrize("module", ["json", "struct", "numpy"])
    def test_they_import_nothing_from_the_current_folder(self, source, tmp_path, monkeypatch, module):
        here = tmp_path / "here"
        here.mkdir()
        (here / f"{module}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
        pool = source()
        monkeypatch.chdir(here)
        monkeypatch.setattr(sys, "path", ["", *sys.path])  # as in a notebook, or after python -c
        with self.strict_readers() as readers:
            assert sum(part.tally.rows for part in readers.index_spans(pool, judge_of("t", "s"))) > 0
        assert not (tmp_path / "imported").exists()

    def test_one_core_reads_alone(self, source, monkeypatch):
        monkeypatch.setattr(os, "sched_getaffinity", lambda number: {0})
        with self.strict_readers() as readers:
            next(readers.index_spans(source(), judge_of("t", "s")))
            assert not children()


def state_of(process):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/status").read_text()
    return "(zombie)"


_OTHERS = set()
"""Processes that other tests have started, such as a browser."""


@pytest.fixture(autouse=True)
def know_others():
    _OTHERS.clear()
    _OTHERS.update(children())


def children(parent=None):
    """Processes that this one, or another, started in this test and that have not ended."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, number = path.read_text().rpartition(")")[2].split()[:2]
            found |= {path.parent.name} if number == str(parent or os.getpid()) and state != "Z" else set()
    return found - _OTHERS
