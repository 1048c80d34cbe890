"""IndexCache in the cache: the text is read once, and what does not fit the file any more is not used."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support import contents_of

from mig_selector.errors import PoolError
from mig_selector.pool.entry import LocalSource, PoolEntry
from mig_selector.pool.formats import json_lines
from mig_selector.pool.formats.files import open_sources
from mig_selector.pool.formats.json_lines import JsonLinesSource
from mig_selector.pool.index import parallel
from mig_selector.pool.index.cache import IndexCache
from mig_selector.pool.index.file_index import extract_rows
from mig_selector.pool.index.judge import RowJudge
from mig_selector.pool.index.serialization import read_extract, write_extract
from mig_selector.pool.reading import read_pool
from mig_selector.store.hashing import ContentHashes


def lines(*scores):
    return "".join(json.dumps({"t": [f"l{number}", "all"], "s": score}) + "\n" for number, score in enumerate(scores))


class Place:
    """A pool file, a cache, and how often text was read."""

    def __init__(self, folder, monkeypatch):
        self.path, self.cache, self.readings = folder / "pool.jsonl", folder / "cache", 0
        original = parallel.Readers.extract_parts

        def counted(*arguments, **options):
            self.readings += 1
            return original(*arguments, **options)

        monkeypatch.setattr(parallel.Readers, "extract_parts", counted)

    def read(self, score="s", on_bad_row="error", on_bytes=lambda count: None):
        source = LocalSource(self.path.name, self.path)
        entry = PoolEntry("pool", "sharegpt", {"messages": "d"}, {}, False, source, "train")
        hashes, sources = ContentHashes(self.cache), [open_sources(entry)]
        contents, extracts = contents_of(sources, hashes), IndexCache(self.cache, hashes)
        return read_pool([entry], sources, contents, RowJudge("t", score), on_bad_row, on_bytes, extracts)

    def age(self, seconds=100):
        """Make the file look older, so that its hash is remembered."""
        stat = self.path.stat()
        os.utime(self.path, ns=(stat.st_atime_ns, stat.st_mtime_ns - seconds * 10**9))

    def file(self):
        [file] = self.cache.glob("pools/*.parquet")
        return file


@pytest.fixture
def place(tmp_path, monkeypatch):
    return Place(tmp_path, monkeypatch)


def facts(pool):
    arrays = [pool.labels.offsets, pool.labels.ids, pool.scores, pool.pool_indices, pool.byte_offsets]
    return [array.tolist() for array in arrays], pool.labels.names, vars(pool.report)


def test_a_second_reading_reads_no_text_and_finds_the_same(place):
    place.path.write_text(lines(1, 2.5, None, 0, 2.5) + "{\n" + lines(1) + "\n\n")
    first = place.read(on_bad_row="skip")
    seen = []
    again = place.read(on_bad_row="skip", on_bytes=seen.append)
    assert place.readings == 1
    assert facts(again) == facts(first)
    assert first.report.unreadable_rows[0].startswith("pool.jsonl:6: is not JSON")
    assert first.report.duplicates == 1
    assert sum(seen) == place.path.stat().st_size


def test_another_score_or_other_labels_are_another_extract(place):
    place.path.write_text(lines(1, 2))
    assert place.read().scores.tolist() == [1.0, 2.0]
    assert place.read("constant").scores.tolist() == [1.0, 1.0]
    assert place.readings == 2


def test_a_copy_of_the_file_is_not_read_again(place, tmp_path):
    place.path.write_text(lines(1, 2))
    place.read()
    place.path = place.path.rename(tmp_path / "other.jsonl")
    assert place.read().sources[0].name == "other.jsonl"
    assert place.readings == 1


def test_a_changed_file_of_the_same_size_and_time_is_noticed(place):
    place.path.write_text(lines(1, 2))
    place.age()
    before = place.path.stat()
    assert place.read().scores.tolist() == [1.0, 2.0]
    place.path.write_text(lines(3, 4))
    os.utime(place.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = place.path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert place.read().scores.tolist() == [3.0, 4.0]


@pytest.mark.parametrize("damage", ["cut", "flip", "swap", "text", "empty"])
def test_a_damaged_extract_is_made_again(place, damage):
    place.path.write_text(lines(*np.arange(200) / 8))
    wanted = facts(place.read())
    data = place.file().read_bytes()
    match damage:
        case "cut":
            data = data[: len(data) // 2]
        case "flip":
            middle = data.index(b"PAR1") + 40
            data = data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]
        case "swap":
            other = place.cache / "other.parquet"
            source = JsonLinesSource(place.path, "p")
            part = extract_rows(
                source, source.spans(10**6)[0], RowJudge("t", "s"), lambda n: None, stop_at_unreadable=True
            )
            write_extract(other, [part], "the mark of another file")
            data = other.read_bytes()
            other.unlink()
        case "text":
            data = b"no parquet at all"
        case "empty":
            data = b""
    place.file().write_bytes(data)
    assert facts(place.read()) == wanted
    assert place.readings == 2


def test_no_flipped_bit_goes_unnoticed(place):
    place.path.write_text(lines(*np.arange(60) / 8))
    wanted = facts(place.read())
    data = place.file().read_bytes()
    mark = pq.read_metadata(place.file()).metadata[b"mig_selector"]
    for bit in np.random.default_rng(0).integers(0, 8 * len(data), 400).tolist():
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        place.file().write_bytes(changed)
        extract = read_extract(place.file(), json.loads(mark)["mark"])
        if extract is not None:  # the bit means nothing to a reader
            assert extract.label_names == wanted[1]
            assert [extract.label_ids.tolist(), extract.scores.tolist(), extract.rows.tolist()] == wanted[0][1:4]
            assert extract.positions.tolist() == wanted[0][4]
            assert extract.tally.rows == 60


def test_rows_that_were_skipped_before_stop_a_strict_reading(place):
    place.path.write_text(lines(1) + "\n{\n" + lines(2))
    place.read(on_bad_row="skip")
    with pytest.raises(PoolError, match=r"^pool\.jsonl:3: is not JSON.*mig_on_bad_row: skip"):
        place.read()
    assert place.readings == 1


def test_a_strict_reading_that_stopped_leaves_nothing_behind(place):
    place.path.write_text(lines(1) + "{\n")
    with pytest.raises(PoolError, match=r"pool\.jsonl:2"):
        place.read()
    assert list(place.cache.glob("pools/*.parquet")) == []
    assert list(place.cache.glob("pools/.*.tmp")) == []


def test_what_a_killed_run_left_is_removed(place):
    place.path.write_text(lines(1, 2))
    place.read()
    [name] = [file.name for file in place.cache.glob("pools/*.parquet")]
    mine, other = place.cache / "pools" / f".{name}.x1y2.tmp", place.cache / "pools" / ".other.parquet.x1y2.tmp"
    place.file().rename(mine)
    other.touch()
    place.read()
    assert not mine.exists()
    assert other.exists()  # another run may be writing it


def test_a_file_that_is_changed_while_it_is_read_is_refused(place, monkeypatch):
    place.path.write_text(lines(1, 2))
    counted = parallel.Readers.extract_parts

    def slow(*arguments, **options):
        yield from counted(*arguments, **options)
        place.path.write_text(lines(3, 4, 5))

    monkeypatch.setattr(parallel.Readers, "extract_parts", slow)
    with pytest.raises(PoolError, match=r"pool\.jsonl was changed while it was in use"):
        place.read()
    assert list(place.cache.glob("pools/*.parquet")) == []


@pytest.mark.parametrize("left", [0, 1, 30, 32, 33, 64])
def test_a_file_that_is_cut_off_while_it_is_read_is_refused(place, monkeypatch, left):
    place.path.write_text(lines(1, 2, 3, 4, 5, 6))
    monkeypatch.setattr(json_lines, "_BLOCK_BYTES", 16)
    original = json_lines._line_blocks

    def cut(stream, span):
        blocks = original(stream, span)
        yield next(blocks)
        os.truncate(place.path, left)
        yield from blocks

    monkeypatch.setattr(json_lines, "_line_blocks", cut)
    with pytest.raises(PoolError):
        place.read(on_bad_row="skip")
    assert list(place.cache.glob("pools/*.parquet")) == []


def test_the_file_is_compact_and_can_be_read_by_others(place):
    count = 20_000
    rng = np.random.default_rng(0)
    place.path.write_text(
        "".join(
            json.dumps({"t": [f"label {n}" for n in rng.integers(0, 200, 4)], "s": round(rng.uniform(1, 6), 3)}) + "\n"
            for _ in range(count)
        )
    )
    pool = place.read()
    table = pq.read_table(place.file())
    assert table.column_names == ["labels", "scores", "rows", "positions", "digests"]
    assert table["scores"].to_pylist() == pool.scores.tolist()
    assert place.file().stat().st_size < 40 * count


def test_no_extract_is_no_error(tmp_path):
    assert read_extract(tmp_path / "absent.parquet", "mark") is None
    assert read_extract(Path("/dev/null"), "mark") is None
