import json
import os

import pytest
from support import needs_root

from mig_selector.store.hashing import ContentHashes
from mig_selector.store.subsets import (
    MANIFEST,
    copy_subset,
    find_subset,
    read_manifest,
    remember_subset,
)


FINGERPRINT = "0123456789abcdef" * 4


@pytest.fixture
def hashes(tmp_path):
    return ContentHashes(tmp_path / "cache")


def make_subset(folder, hashes, fingerprint=FINGERPRINT, **more):
    folder.mkdir(parents=True)
    (folder / "selected.jsonl").write_bytes(b'{"a":"\xc3\xa9"}\n')
    (folder / "selection.parquet").write_bytes(bytes(range(256)))
    manifest = {
        "fingerprint": fingerprint,
        "method": "mig",
        "budget": 1,
        "rows_filled_by_score": 0,
        "information": 1.5,
        "peak_memory_bytes": None,
        "rows": {"read": 2, "kept": 1, "dropped": {"no label": 1}, "unreadable": {}},
        "subsets": [
            {
                "dataset": "pool",
                "entry_index": 0,
                "rows": 1,
                "json_lines": "selected.jsonl",
                "file": "selected.jsonl",
                "columns": {"prompt": "a"},
            }
        ],
        "files": {name: hashes.file(folder / name) for name in ("selected.jsonl", "selection.parquet")},
        "settings": {},
        "versions": {},
        "seconds": {},
        "for people": None,
        **more,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def test_an_intact_subset_of_the_wanted_selection_is_read(tmp_path, hashes):
    folder = make_subset(tmp_path / "pool_mig_10-01234567", hashes, budget=10)
    manifest = read_manifest(folder, FINGERPRINT, hashes)
    assert manifest is not None
    assert manifest["budget"] == 10


def change_text(folder):
    (folder / "selected.jsonl").write_bytes(b'{"a":"\xc3\xa8"}\n')


def remove_file(folder):
    (folder / "selection.parquet").unlink()


def remove_manifest(folder):
    (folder / MANIFEST).unlink()


def break_manifest(folder):
    (folder / MANIFEST).write_text("{")


def empty_manifest(folder):
    (folder / MANIFEST).write_text(json.dumps({"fingerprint": FINGERPRINT}))


def odd_manifest(folder):
    (folder / MANIFEST).write_text(json.dumps({"fingerprint": FINGERPRINT, "files": ["selected.jsonl"]}))


def leave_the_folder(folder):
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder.parent / "outside").write_bytes((folder / "selected.jsonl").read_bytes())
    manifest["files"]["../outside"] = manifest["files"].pop("selected.jsonl")
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "spoil",
    [change_text, remove_file, remove_manifest, break_manifest, empty_manifest, odd_manifest, leave_the_folder],
)
def test_a_damaged_subset_is_none(tmp_path, hashes, spoil):
    folder = make_subset(tmp_path / "pool_mig_10-01234567", hashes)
    spoil(folder)
    assert read_manifest(folder, FINGERPRINT, hashes) is None
    assert find_subset(FINGERPRINT, tmp_path, tmp_path / "cache", hashes) is None


def test_a_subset_of_another_selection_is_none(tmp_path, hashes):
    other = FINGERPRINT[:8] + "f" * 56  # the folder's name cannot tell them apart
    folder = make_subset(tmp_path / "pool_mig_10-01234567", hashes, other)
    assert read_manifest(folder, FINGERPRINT, hashes) is None
    assert find_subset(FINGERPRINT, tmp_path, tmp_path / "cache", hashes) is None
    assert find_subset(other, tmp_path, tmp_path / "cache", hashes) == folder


def test_a_subset_is_found_under_another_name(tmp_path, hashes):
    folder = make_subset(tmp_path / "out" / "quite.another+name-01234567", hashes)
    assert find_subset(FINGERPRINT, tmp_path / "out", tmp_path / "cache", hashes) == folder


def test_a_subset_is_found_where_it_was_written_before(tmp_path, hashes):
    folder = make_subset(tmp_path / "old folder" / "name-01234567", hashes)
    cache = tmp_path / "cache"
    assert find_subset(FINGERPRINT, tmp_path / "out", cache, hashes) is None
    remember_subset(FINGERPRINT, folder, cache)
    remember_subset(FINGERPRINT, folder, cache)
    assert find_subset(FINGERPRINT, tmp_path / "out", cache, hashes) == folder
    assert find_subset(FINGERPRINT[::-1], tmp_path / "out", cache, hashes) is None


def test_a_recorded_folder_that_is_gone_does_not_hide_another(tmp_path, hashes):
    cache = tmp_path / "cache"
    remember_subset(FINGERPRINT, tmp_path / "gone", cache)
    folder = make_subset(tmp_path / "there-01234567", hashes)
    remember_subset(FINGERPRINT, folder, cache)
    assert find_subset(FINGERPRINT, tmp_path / "out", cache, hashes) == folder


def test_a_cache_that_cannot_be_written_records_nothing(tmp_path, hashes):
    (tmp_path / "file").write_text("")
    remember_subset(FINGERPRINT, tmp_path, tmp_path / "file")
    assert find_subset(FINGERPRINT, tmp_path / "out", tmp_path / "file", hashes) is None


def test_a_copy_is_as_valid_as_the_original(tmp_path, hashes):
    source = make_subset(tmp_path / "a-01234567", hashes)
    copy_subset(source, tmp_path / "deep" / "b-01234567")
    target = tmp_path / "deep" / "b-01234567"
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {
        path.name: path.read_bytes() for path in source.iterdir()
    }
    assert read_manifest(target, FINGERPRINT, hashes) is not None


def test_an_incomplete_copy_is_not_a_subset(tmp_path, hashes):
    source = make_subset(tmp_path / "a-01234567", hashes)
    (source / "selection.parquet").unlink()
    with pytest.raises(OSError, match=r"selection\.parquet"):
        copy_subset(source, tmp_path / "b-01234567")
    assert not (tmp_path / "b-01234567" / MANIFEST).exists()


def test_a_subset_that_others_may_write_is_not_found(tmp_path, hashes, caplog):
    folder = make_subset(tmp_path / "out" / "pool_mig_10-01234567", hashes)
    assert find_subset(FINGERPRINT, tmp_path / "out", tmp_path / "cache", hashes) == folder
    (folder / "selected.jsonl").chmod(0o666)
    assert find_subset(FINGERPRINT, tmp_path / "out", tmp_path / "cache", hashes) is None
    assert "selected.jsonl is not used" in caplog.text


@pytest.mark.parametrize("whose", [pytest.param("another user's", marks=needs_root), "writable for all"])
def test_a_planted_record_leads_nowhere(tmp_path, hashes, whose):
    folder = make_subset(tmp_path / "elsewhere" / "anything", hashes)
    remember_subset(FINGERPRINT, folder, tmp_path / "cache")
    [record] = (tmp_path / "cache" / "selections").iterdir()
    assert find_subset(FINGERPRINT, tmp_path / "out", tmp_path / "cache", hashes) == folder
    if whose == "another user's":
        os.chown(record, 4242, -1)
    else:
        record.chmod(0o646)
    assert find_subset(FINGERPRINT, tmp_path / "out", tmp_path / "cache", hashes) is None
