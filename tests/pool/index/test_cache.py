"""The cached pool index: text is scanned once, and an index that no longer matches its file is not used."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support import contents_of, judge_of

from mig_selector.errors import PoolError
from mig_selector.pool.entry import LocalSource, PoolEntry
from mig_selector.pool.formats import json_lines
from mig_selector.pool.formats.files import open_sources
from mig_selector.pool.formats.json_lines import JsonLinesSource
from mig_selector.pool.index import parallel
from mig_selector.pool.index.cache import IndexCache
from mig_selector.pool.index.file_index import index_span
from mig_selector.pool.index.serialization import read_index, write_index
from mig_selector.pool.reading import read_pool
from mig_selector.store.hashing import ContentHashes


def lines(*scores):
    return "".join(json.dumps({"t": [f"l{number}", "all"], "s": score}) + "\n" for number, score in enumerate(scores))


class CachedPool:
    """A pool file, a cache, and how often the text was scanned."""

    def __init__(self, folder, monkeypatch):
        self.path, self.cache, self.scans = folder / "pool.jsonl", folder / "cache", 0
        original = parallel.Readers.index_spans

        def counted(*arguments, **options):
            self.scans += 1
            return original(*arguments, **options)

        monkeypatch.setattr(parallel.Readers, "index_spans", counted)

    def read(self, score="s", on_bad_row="error", on_bytes=lambda count: None):
        source = LocalSource(self.path.name, self.path)
        entry = PoolEntry("pool", "sharegpt", {"messages": "d"}, {}, False, source, "train")
        hashes, sources = ContentHashes(self.cache), [open_sources(entry)]
        file_hashes, cache = contents_of(sources, hashes), IndexCache(self.cache, hashes)
        return read_pool([entry], sources, file_hashes, [judge_of("t", score)], on_bad_row, on_bytes, cache)

    def age(self, seconds=100):
        """Make the file look older, so that its hash is remembered."""
        stat = self.path.stat()
        os.utime(self.path, ns=(stat.st_atime_ns, stat.st_mtime_ns - seconds * 10**9))

    def file(self):
        [file] = self.cache.glob("pools/*.parquet")
        return file


@pytest.fixture
def cached(tmp_path, monkeypatch):
    return CachedPool(tmp_path, monkeypatch)


def summary(pool):
    arrays = [pool.labels.offsets, pool.labels.ids, pool.scores, pool.pool_indices, pool.byte_offsets]
    return [array.tolist() for array in arrays], pool.labels.names, vars(pool.report)


def test_a_second_reading_reads_no_text_and_finds_the_same(cached):
    cached.path.write_text(lines(1, 2.5, None, 0, 2.5) + "{\n" + lines(1) + "\n\n")
    first = cached.read(on_bad_row="skip")
    seen = []
    again = cached.read(on_bad_row="skip", on_bytes=seen.append)
    assert cached.scans == 1
    assert summary(again) == summary(first)
    assert first.report.unreadable_rows[0].startswith("pool.jsonl:6: is not valid JSON")
    assert first.report.duplicates == 1
    assert sum(seen) == cached.path.stat().st_size


def test_another_score_or_other_labels_are_another_index(cached):
    cached.path.write_text(lines(1, 2))
    assert cached.read().scores.tolist() == [1.0, 2.0]
    assert np.isnan(cached.read("constant").scores).tolist() == [True, True]
    assert cached.scans == 2


def test_a_copy_of_the_file_is_not_read_again(cached, tmp_path):
    cached.path.write_text(lines(1, 2))
    cached.read()
    cached.path = cached.path.rename(tmp_path / "other.jsonl")
    assert cached.read().sources[0].name == "other.jsonl"
    assert cached.scans == 1


def test_a_changed_file_of_the_same_size_and_time_is_noticed(cached):
    cached.path.write_text(lines(1, 2))
    cached.age()
    before = cached.path.stat()
    assert cached.read().scores.tolist() == [1.0, 2.0]
    cached.path.write_text(lines(3, 4))
    os.utime(cached.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = cached.path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert cached.read().scores.tolist() == [3.0, 4.0]


@pytest.mark.parametrize("damage", ["cut", "flip", "swap", "text", "empty"])
def test_a_damaged_index_is_made_again(cached, damage):
    cached.path.write_text(lines(*np.arange(200) / 8))
    wanted = summary(cached.read())
    data = cached.file().read_bytes()
    match damage:
        case "cut":
            data = data[: len(data) // 2]
        case "flip":
            middle = data.index(b"PAR1") + 40
            data = data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]
        case "swap":
            other = cached.cache / "other.parquet"
            source = JsonLinesSource(cached.path, "p")
            part = index_span(
                source, source.spans(10**6)[0], judge_of("t", "s"), lambda n: None, stop_at_unreadable=True
            )
            write_index(other, [part], "the fingerprint of another file")
            data = other.read_bytes()
            other.unlink()
        case "text":
            data = b"no parquet at all"
        case "empty":
            data = b""
    cached.file().write_bytes(data)
    assert summary(cached.read()) == wanted
    assert cached.scans == 2


def test_no_flipped_bit_goes_unnoticed(cached):
    cached.path.write_text(lines(*np.arange(60) / 8))
    wanted = summary(cached.read())
    data = cached.file().read_bytes()
    header = pq.read_metadata(cached.file()).metadata[b"mig_selector"]
    for bit in np.random.default_rng(0).integers(0, 8 * len(data), 400).tolist():
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        cached.file().write_bytes(changed)
        index = read_index(cached.file(), json.loads(header)["fingerprint"])
        if index is not None:  # the bit is in a part of the file that is not read
            assert index.label_names == wanted[1]
            assert [index.label_ids.tolist(), index.scores.tolist(), index.source_rows.tolist()] == wanted[0][1:4]
            assert index.byte_offsets.tolist() == wanted[0][4]
            assert index.tally.rows == 60


def test_rows_that_were_skipped_before_stop_a_strict_reading(cached):
    cached.path.write_text(lines(1) + "\n{\n" + lines(2))
    cached.read(on_bad_row="skip")
    with pytest.raises(PoolError, match=r"^pool\.jsonl:3: is not valid JSON.*mig_on_bad_row: skip"):
        cached.read()
    assert cached.scans == 1


def test_a_strict_reading_that_stopped_leaves_nothing_behind(cached):
    cached.path.write_text(lines(1) + "{\n")
    with pytest.raises(PoolError, match=r"pool\.jsonl:2"):
        cached.read()
    assert list(cached.cache.glob("pools/*.parquet")) == []
    assert list(cached.cache.glob("pools/.*.tmp")) == []


def test_leftovers_of_a_killed_run_are_removed(cached):
    cached.path.write_text(lines(1, 2))
    cached.read()
    [name] = [file.name for file in cached.cache.glob("pools/*.parquet")]
    mine, other = cached.cache / "pools" / f".{name}.x1y2.tmp", cached.cache / "pools" / ".other.parquet.x1y2.tmp"
    cached.file().rename(mine)
    other.touch()
    cached.read()
    assert not mine.exists()
    assert other.exists()  # another run may be writing it


def test_a_file_that_is_changed_while_it_is_read_is_refused(cached, monkeypatch):
    cached.path.write_text(lines(1, 2))
    counted = parallel.Readers.index_spans

    def slow(*arguments, **options):
        yield from counted(*arguments, **options)
        cached.path.write_text(lines(3, 4, 5))

    monkeypatch.setattr(parallel.Readers, "index_spans", slow)
    with pytest.raises(PoolError, match=r"pool\.jsonl was changed while it was in use"):
        cached.read()
    assert list(cached.cache.glob("pools/*.parquet")) == []


def test_a_file_that_is_exchanged_while_it_is_read_and_put_back_is_refused(cached, monkeypatch, tmp_path):
    cached.path.write_text(lines(*range(20)))
    cached.age()
    other = tmp_path / "other.jsonl"
    other.write_text(lines(*range(20, 40)))
    original = parallel.Readers.index_spans

    def exchanged(*arguments, **options):
        cached.path.rename(tmp_path / "aside")
        other.rename(cached.path)
        yield from original(*arguments, **options)
        cached.path.unlink()
        (tmp_path / "aside").rename(cached.path)

    with monkeypatch.context() as patch:
        patch.setattr(parallel.Readers, "index_spans", exchanged)
        with pytest.raises(PoolError, match="was changed while it was in use"):
            cached.read()
    assert cached.read().scores.tolist() == list(range(20))


@pytest.mark.parametrize("left", [0, 1, 30, 32, 33, 64])
def test_a_file_that_is_truncated_while_it_is_read_is_refused(cached, monkeypatch, left):
    cached.path.write_text(lines(1, 2, 3, 4, 5, 6))
    monkeypatch.setattr(json_lines, "_BLOCK_BYTES", 16)
    original = json_lines._line_blocks

    def cut(stream, span):
        blocks = original(stream, span)
        yield next(blocks)
        os.truncate(cached.path, left)
        yield from blocks

    monkeypatch.setattr(json_lines, "_line_blocks", cut)
    with pytest.raises(PoolError):
        cached.read(on_bad_row="skip")
    assert list(cached.cache.glob("pools/*.parquet")) == []


def test_the_file_is_compact_and_can_be_read_by_others(cached):
    count = 20_000
    rng = np.random.default_rng(0)
    cached.path.write_text(
        "".join(
            json.dumps({"t": [f"label {n}" for n in rng.integers(0, 200, 4)], "s": round(rng.uniform(1, 6), 3)}) + "\n"
            for _ in range(count)
        )
    )
    pool = cached.read()
    table = pq.read_table(cached.file())
    assert table.column_names == ["labels", "scores", "source_rows", "byte_offsets", "digests"]
    assert table["scores"].to_pylist() == pool.scores.tolist()
    assert cached.file().stat().st_size < 40 * count


def test_an_absent_index_is_no_error(tmp_path):
    assert read_index(tmp_path / "absent.parquet", "fingerprint") is None
    assert read_index(Path("/dev/null"), "fingerprint") is None
