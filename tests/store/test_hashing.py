import hashlib
import json
import os
import time

import pytest

from mig_selector.store import hashing
from mig_selector.store.hashing import ContentHashes, fingerprint_of


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def settled(tmp_path, monkeypatch):
    """A file that seems to have been written an hour ago, so that its hash is cached."""
    path = tmp_path / "pool.jsonl"
    path.write_bytes(b"one\ntwo\n")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3_600)
    return path


def records(tmp_path):
    return list((tmp_path / "cache" / "content_hashes").glob("*.json"))


def test_the_hash_is_that_of_the_bytes(tmp_path):
    (tmp_path / "file").write_bytes(b"abc" * 100_000)
    assert ContentHashes(tmp_path / "cache").file(tmp_path / "file") == sha256(b"abc" * 100_000)


def test_a_file_with_a_cached_hash_is_not_read_again(tmp_path, settled):
    assert ContentHashes(tmp_path / "cache").file(settled) == sha256(b"one\ntwo\n")
    (record,) = records(tmp_path)
    record.write_text(json.dumps({**json.loads(record.read_text()), "sha256": "cached"}))
    assert ContentHashes(tmp_path / "cache").file(settled) == "cached"
    (tmp_path / "link").symlink_to(settled)
    assert ContentHashes(tmp_path / "cache").file(tmp_path / "link") == "cached"  # the same real path
    assert ContentHashes(tmp_path / "other").file(settled) == sha256(b"one\ntwo\n")


def test_the_hash_of_a_file_just_written_is_not_cached(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    ContentHashes(tmp_path / "cache").file(tmp_path / "file")
    assert records(tmp_path) == []


@pytest.mark.parametrize("how", ["in place", "replaced"])
def test_a_change_is_noticed_though_size_and_mtime_are_restored(tmp_path, settled, how):
    hashes = ContentHashes(tmp_path / "cache")
    assert hashes.file(settled) == sha256(b"one\ntwo\n")
    assert len(records(tmp_path)) == 1
    before = settled.stat()
    if how == "in place":
        with settled.open("r+b") as stream:
            stream.write(b"ONE")
    else:
        (tmp_path / "new").write_bytes(b"ONE\ntwo\n")
        (tmp_path / "new").replace(settled)
    os.utime(settled, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = settled.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert hashes.file(settled) == sha256(b"ONE\ntwo\n")


def test_a_link_that_points_elsewhere_is_noticed(tmp_path, settled):
    hashes = ContentHashes(tmp_path / "cache")
    (tmp_path / "link").symlink_to(settled)
    first = hashes.file(tmp_path / "link")
    (tmp_path / "other").write_bytes(b"two\none\n")
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to(tmp_path / "other")
    assert hashes.file(tmp_path / "link") != first


@pytest.mark.parametrize("content", ["", "[]", "null", '{"stamp": []}'])
def test_a_broken_record_costs_another_reading(tmp_path, settled, content):
    hashes = ContentHashes(tmp_path / "cache")
    hashes.file(settled)
    (record,) = records(tmp_path)
    record.write_text(content)
    assert hashes.file(settled) == sha256(b"one\ntwo\n")


def test_a_record_without_its_hash_costs_another_reading(tmp_path, settled):
    hashes = ContentHashes(tmp_path / "cache")
    digest = hashes.file(settled)
    (record,) = records(tmp_path)
    known = json.loads(record.read_text())
    for value in ({"stamp": known["stamp"]}, {**known, "sha256": None}):
        record.write_text(json.dumps(value))
        assert hashes.file(settled) == digest
        assert json.loads(record.read_text()) == known


def test_a_record_that_others_may_write_is_not_believed(tmp_path, settled):
    hashes = ContentHashes(tmp_path / "cache")
    digest = hashes.file(settled)
    (record,) = records(tmp_path)
    record.write_text(json.dumps({**json.loads(record.read_text()), "sha256": "planted"}))
    record.chmod(0o666)
    assert hashes.file(settled) == digest
    assert record.stat().st_mode & 0o022 == 0


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path, settled):
    (tmp_path / "cache").write_text("a file where a folder should be")
    assert ContentHashes(tmp_path / "cache").file(settled) == sha256(b"one\ntwo\n")


def test_files_whose_names_are_not_valid_utf8_can_be_hashed(tmp_path, settled):
    odd = tmp_path / "folder" / os.fsdecode(b"odd-\xff")
    odd.parent.mkdir()
    settled.rename(odd)
    hashes = ContentHashes(tmp_path / "cache")
    assert hashes.file(odd) == hashes.file(odd) == sha256(b"one\ntwo\n")
    assert len(records(tmp_path)) == 1
    assert hashes.folder(odd.parent) == hashes.folder(odd.parent)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="gone"):
        ContentHashes(tmp_path / "cache").file(tmp_path / "gone")


def make_model(folder, **files):
    for name, content in {"config.json": "{}", "deep/er/weights": "w", **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def test_a_folder_is_its_names_and_contents_wherever_it_is(tmp_path):
    hashes = ContentHashes(tmp_path / "cache")
    first = hashes.folder(make_model(tmp_path / "a"))
    assert hashes.folder(make_model(tmp_path / "b")) == first
    assert hashes.folder(make_model(tmp_path / "c", **{"config.json": "[]"})) != first
    assert hashes.folder(make_model(tmp_path / "d", **{"deep/er/weights": "v"})) != first
    assert hashes.folder(make_model(tmp_path / "e", extra="")) != first
    moved = make_model(tmp_path / "f")
    (moved / "deep" / "er" / "weights").rename(moved / "deep" / "weights")
    assert hashes.folder(moved) != first


def test_what_links_to_folders_hold_is_part_of_a_folder(tmp_path):
    hashes = ContentHashes(tmp_path / "cache")
    make_model(tmp_path / "elsewhere", weights="one")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "1_Pooling").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "model" / "around").symlink_to(tmp_path)  # leads back here
    (tmp_path / "model" / "around2").symlink_to(tmp_path / "model")
    before = hashes.folder(tmp_path / "model")
    make_model(tmp_path / "elsewhere", weights="two")
    assert hashes.folder(tmp_path / "model") != before


def test_a_fingerprint_does_not_depend_on_the_order_of_keys():
    first = {"b": {"y": [1, 2], "x": "é"}, "a": None}
    assert fingerprint_of(first) == fingerprint_of({"a": None, "b": {"x": "é", "y": [1, 2]}})
    assert len(fingerprint_of(first)) == 64
    int(fingerprint_of(first), 16)


def test_a_fingerprint_depends_on_every_value_and_on_the_order_of_lists():
    identities = [
        {"a": 1},
        {"a": 1.5},
        {"a": "1"},
        {"a": None},
        {"a": [1, 2]},
        {"a": [2, 1]},
        {"b": 1},
        {},
        {"a": {"a": 1}},
    ]
    assert len({fingerprint_of(identity) for identity in identities}) == len(identities)


def test_a_fingerprint_stays_the_same_between_versions():
    # sha256 of the string '{"a": [1, 2.5, null, "\u00e9"]}'
    assert fingerprint_of({"a": [1, 2.5, None, "é"]}) == sha256(b'{"a": [1, 2.5, null, "\\u00e9"]}')


@pytest.mark.parametrize("size", [1, 9, 10, 11, 20, 25, 1000])
def test_a_large_file_is_hashed_by_blocks(tmp_path, monkeypatch, size):
    monkeypatch.setattr(hashing, "_BLOCK_BYTES", 10)
    monkeypatch.setattr(hashing, "_READ_BYTES", 3)
    data = bytes(number % 251 for number in range(size))
    (tmp_path / "file").write_bytes(data)
    blocks = [hashlib.sha256(data[start : start + 10]).digest() for start in range(0, size, 10)]
    wanted = sha256(data) if size <= 10 else f"blocks-64MiB:{sha256(b''.join(blocks))}"
    assert hashing.hash_file(tmp_path / "file") == wanted


def test_only_a_file_whose_hash_takes_seconds_is_mentioned(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(hashing, "_BLOCK_BYTES", 10)
    monkeypatch.setattr(hashing, "_LARGE_BYTES", 30)
    for size in (30, 31, 32):
        (tmp_path / f"{size}").write_bytes(bytes(size))
        hashing.hash_file(tmp_path / f"{size}")
    assert [record.args[0].name for record in caplog.records] == ["31", "32"]


def test_the_hash_of_a_large_file_shows_in_any_of_its_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(hashing, "_BLOCK_BYTES", 10)
    path = tmp_path / "file"
    path.write_bytes(bytes(35))
    seen = {hashing.hash_file(path)}
    for offset in range(35):
        path.write_bytes(bytes(offset) + b"\1" + bytes(34 - offset))
        seen.add(hashing.hash_file(path))
    path.write_bytes(bytes(36))
    seen.add(hashing.hash_file(path))
    assert len(seen) == 37
