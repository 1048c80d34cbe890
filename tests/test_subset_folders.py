"""The output folder: written under locks, never through a link, and believed only where it is sound."""

import fcntl
import json
import os
import threading
import time
from pathlib import Path

import pytest
from support import make_rows

from mig_selector.errors import RegistrationError
from mig_selector.pipeline import recipe, write
from mig_selector.pipeline.recipe import run_selection
from mig_selector.store.files import locked
from mig_selector.store.hashing import fingerprint_of


OTHER = "cd" * 32


def select(workplace, **more):
    return run_selection(workplace.settings(**more))[0]


def is_reused(outcome):
    return "already selected" in outcome.summary[0]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


class Running(threading.Thread):
    """A selection beside the test."""

    def __init__(self, workplace, **more):
        super().__init__(daemon=True)
        self._arguments = workplace, more
        self.outcome = None
        self.start()

    def run(self):
        workplace, more = self._arguments
        self.outcome = select(workplace, **more)

    def wait_until(self, text, caplog):
        """Wait until the log says something, or the run has ended; return whether it was said."""
        deadline = time.monotonic() + 60
        while self.is_alive() and text not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.02)
        return text in caplog.text

    def finish(self):
        self.join(60)
        assert self.outcome is not None
        return self.outcome


# Locks


@pytest.fixture
def log(caplog):
    caplog.set_level("INFO", logger="mig_selector")
    return caplog


def test_equal_runs_with_one_cache_wait_for_each_other_before_anything_is_read(pool_of_60, tmp_path, log):
    first = select(pool_of_60)
    log.clear()
    with locked(tmp_path / "cache" / "locks" / fingerprint_of({"selections": [first.fingerprint]})[:32]):
        running = Running(pool_of_60, mig_overwrite=True)
        assert running.wait_until("waiting for another run to release", log)
        assert running.outcome is None
        assert "pool: read" not in log.text
    assert running.finish().folder == first.folder


@pytest.mark.parametrize("name", ["pool_mig_10", "copy"], ids=["written", "copied"])
def test_a_folder_is_written_under_a_lock_beside_it(pool_of_60, log, name):
    first = select(pool_of_60)
    folder = Path(first.folder).with_name(f"{name}-{first.fingerprint[:16]}")
    log.clear()
    with locked(folder):
        running = Running(pool_of_60, mig_dataset_name=name, mig_overwrite=name == "pool_mig_10")
        assert running.wait_until(f"waiting for another run to release {folder}", log)
    assert running.finish().folder == str(folder)
    assert (folder.parent / f".{folder.name}.lock").exists()


def test_runs_with_two_caches_do_not_mix_their_files(pool_of_60, tmp_path, monkeypatch, log):
    """The second one comes when the first has written its rows, but not yet its table."""
    table, others, rows = write.write_selection_table, [], []

    def write_table(*arguments):
        if not others:
            rows.append((arguments[0].parent / "selected.jsonl").stat().st_ino)
            others.append(Running(pool_of_60, mig_cache_dir=str(tmp_path / "another cache")))
            others[0].wait_until("waiting for another run to release", log)
        table(*arguments)

    monkeypatch.setattr(write, "write_selection_table", write_table)
    first = select(pool_of_60)
    inodes = {path.name: path.stat().st_ino for path in Path(first.folder).iterdir()}
    second = others[0].finish()
    assert (second.fingerprint, second.folder) == (first.fingerprint, first.folder)
    assert inodes["selected.jsonl"] == rows[0]  # of the run that wrote the table
    # The first run may be training on them already.
    assert {path.name: path.stat().st_ino for path in Path(first.folder).iterdir()} == inodes
    assert is_reused(select(pool_of_60))


def test_a_change_between_writing_and_hashing_has_no_name_to_reach(pool_of_60, monkeypatch):
    folders = []
    monkeypatch.setattr(
        write, "hash_file", lambda path, hash_file=write.hash_file: folders.append(path.parent) or hash_file(path)
    )
    outcome = select(pool_of_60)
    assert Path(outcome.folder) not in folders
    assert not any(folder.exists() for folder in folders)
    assert sorted(path.name for path in Path(outcome.folder).parent.iterdir()) == [
        f".{Path(outcome.folder).name}.lock",
        Path(outcome.folder).name,
    ]


def test_what_a_killed_run_left_is_removed_but_not_what_a_live_one_writes(pool_of_60):
    folder = Path(select(pool_of_60).folder)
    left, live = (folder.with_name(f".{folder.name}.{name}.tmp") for name in ("dead", "live"))
    for each in (left, live):
        each.mkdir()
        (each / "selected.jsonl").write_text("half")
    handle = os.open(live, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        select(pool_of_60, mig_overwrite=True)
    finally:
        os.close(handle)
    assert not left.exists()
    assert (live / "selected.jsonl").read_text() == "half"


# Names of folders


def as_foreign(folder, source):
    """Make a folder that holds another selection."""
    folder.mkdir(parents=True)
    for name, content in contents(source).items():
        (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "fingerprint": OTHER}))
    return contents(folder)


def test_a_selection_whose_first_32_bits_are_the_same_is_not_overwritten(pool_of_60, tmp_path):
    made = select(pool_of_60, mig_output_dir=str(tmp_path / "first"))
    twin = tmp_path / "second" / f"pool_mig_10-{made.fingerprint[:8]}"
    before = as_foreign(twin, Path(made.folder))
    outcome = select(pool_of_60, mig_output_dir=str(tmp_path / "second"), mig_overwrite=True)
    assert contents(twin) == before
    assert Path(outcome.folder) != twin
    assert is_reused(select(pool_of_60, mig_output_dir=str(tmp_path / "second")))


@pytest.mark.parametrize("overwrite", [True, False], ids=["written", "copied"])
def test_another_selection_in_the_same_folder_is_refused(pool_of_60, tmp_path, overwrite):
    made = select(pool_of_60, mig_output_dir=str(tmp_path / "first"))
    twin = tmp_path / "second" / Path(made.folder).name
    before = as_foreign(twin, Path(made.folder))
    with pytest.raises(RegistrationError, match=r"holds another selection .*which is not overwritten"):
        select(pool_of_60, mig_output_dir=str(tmp_path / "second"), mig_overwrite=overwrite)
    assert contents(twin) == before


def test_a_folder_with_eight_digits_is_still_found_and_stays(pool_of_60, tmp_path):
    made = select(pool_of_60)
    old = Path(made.folder).with_name(f"pool_mig_10-{made.fingerprint[:8]}")
    Path(made.folder).rename(old)
    again = select(pool_of_60, mig_cache_dir=str(tmp_path / "another cache"))
    assert is_reused(again)
    assert again.folder == str(old)
    assert pool_of_60.entries()["pool_mig_10"]["file_name"] == f"mig_selections/{old.name}/selected.jsonl"
    named = select(pool_of_60, mig_cache_dir=str(tmp_path / "a third"), mig_dataset_name="mine")
    assert is_reused(named)
    assert Path(named.folder).name == f"mine-{made.fingerprint[:16]}"


# Links


def test_no_file_is_written_through_a_link(pool_of_60, tmp_path):
    made = select(pool_of_60)
    expected = contents(Path(made.folder))
    files = [path for path in Path(made.folder).rglob("*") if path.is_file()]
    assert len(files) == 4
    victims = [tmp_path / f"victim {path.name}" for path in files]
    for path, victim in zip(files, victims, strict=True):
        victim.write_text("precious")
        path.unlink()
        path.symlink_to(victim)
    again = select(pool_of_60)
    assert not is_reused(again)
    assert again.folder == made.folder
    assert [victim.read_text() for victim in victims] == ["precious"] * 4
    assert not any(path.is_symlink() for path in files)
    rows = contents(Path(again.folder))
    assert rows["selected.jsonl"] == expected["selected.jsonl"]


@pytest.mark.parametrize("name", ["selected.jsonl", "selection.parquet", "manifest.json"])
def test_a_file_that_is_a_link_to_the_right_content_is_not_believed(pool_of_60, tmp_path, name):
    made = select(pool_of_60)
    path = Path(made.folder) / name
    (tmp_path / "elsewhere").write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    assert not is_reused(select(pool_of_60))
    assert not path.is_symlink()


@pytest.mark.parametrize("part", [".", "dataset_dir-*"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_that_is_a_link_is_refused(pool_of_60, tmp_path, part, exists):
    made = Path(select(pool_of_60).folder)
    folder = made if part == "." else next(made.glob(part))
    elsewhere = tmp_path / "elsewhere"
    folder.rename(elsewhere)
    for path in elsewhere.glob("*.json"):
        path.write_text("precious")
    before = contents(elsewhere)
    if not exists:
        elsewhere = elsewhere.rename(tmp_path / "gone")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RegistrationError, match="must be a folder of its own, but is a link"):
        select(pool_of_60, mig_overwrite=True)
    assert contents(elsewhere) == before
    assert elsewhere.name == "elsewhere" or not (tmp_path / "elsewhere").exists()


def test_an_output_folder_that_the_user_made_a_link_is_followed(pool_of_60, tmp_path):
    (tmp_path / "large disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "large disk")
    outcome = select(pool_of_60, mig_output_dir=str(tmp_path / "link"))
    assert (tmp_path / "large disk" / Path(outcome.folder).name / "selected.jsonl").is_file()
    assert is_reused(select(pool_of_60, mig_output_dir=str(tmp_path / "link")))


# Manifests


def with_key(name, value):
    return lambda manifest: {**manifest, name: value}


def without_key(name):
    return lambda manifest: {key: value for key, value in manifest.items() if key != name}


def in_subset(**more):
    return lambda manifest: {**manifest, "subsets": [{**manifest["subsets"][0], **more}]}


MALFORMED = {
    "a list": lambda manifest: [manifest],
    "no rows": without_key("rows"),
    "rows that are a list": with_key("rows", []),
    "rows without reasons": with_key("rows", {"read": 60, "kept": 60}),
    "no budget": without_key("budget"),
    "a budget that is a string": with_key("budget", "10"),
    "a budget of 0": with_key("budget", 0),
    "no subsets": without_key("subsets"),
    "empty subsets": with_key("subsets", []),
    "subsets that are strings": with_key("subsets", ["selected.jsonl"]),
    "a place beyond the pool": in_subset(entry_index=7),
    "a place before the pool": in_subset(entry_index=-1),
    "columns that are a list": in_subset(columns=[]),
    "a file outside": in_subset(file="../../../pool.jsonl"),
    "an absolute file": in_subset(file="/etc/passwd"),
    "a file that is not listed": in_subset(file="manifest.json"),
    "files that are a list": lambda manifest: {**manifest, "files": list(manifest["files"])},
    "files without hashes": lambda manifest: {**manifest, "files": dict.fromkeys(manifest["files"])},
    "a listed folder": lambda manifest: {**manifest, "files": {**manifest["files"], "..": "0" * 64}},
    "a name with NUL": lambda manifest: {**manifest, "files": {**manifest["files"], "a\0": "0" * 64}},
    "seconds that are a string": with_key("seconds", "1.5"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_manifest_is_not_a_subset(pool_of_60, name):
    made = select(pool_of_60)
    path = Path(made.folder) / "manifest.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(MALFORMED[name](whole)))
    again = select(pool_of_60)
    assert not is_reused(again)
    found = json.loads(path.read_text())
    assert (found["files"], found["subsets"]) == (whole["files"], whole["subsets"])
    assert is_reused(select(pool_of_60))


@pytest.mark.parametrize(
    "write_manifest",
    [
        lambda path: path.write_text("[" * 200_000),
        lambda path: path.write_text('{"fingerprint": ' + "1" * 5_000 + "}"),
        os.mkfifo,
        lambda path: (path.touch(), os.truncate(path, 1 << 30)),
    ],
    ids=["nested deeply", "a huge number", "a pipe", "a gigabyte"],
)
def test_a_manifest_that_cannot_be_read_is_not_a_subset(pool_of_60, write_manifest):
    made = select(pool_of_60)
    path = Path(made.folder) / "manifest.json"
    path.unlink()
    write_manifest(path)
    assert not is_reused(select(pool_of_60))
    assert is_reused(select(pool_of_60))


def test_a_subset_that_changes_while_it_is_copied_is_refused(pool_of_60, monkeypatch):
    made = select(pool_of_60)
    copy = recipe.copy_subset

    def change_and_copy(source, target):
        (source / "selected.jsonl").write_text("{}\n")
        copy(source, target)

    monkeypatch.setattr(recipe, "copy_subset", change_and_copy)
    with pytest.raises(RegistrationError, match="was changed while it was copied; start again"):
        select(pool_of_60, mig_dataset_name="mine")
    assert not Path(made.folder).with_name(f"mine-{made.fingerprint[:16]}").exists()


def test_rows_of_several_names_are_found_again(workplace):
    workplace.add("a", make_rows(30))
    workplace.add("b", make_rows(50, seed=1))
    first = select(workplace, dataset="a,b", mig_num_samples=20)
    again = select(workplace, dataset="a,b", mig_num_samples=20)
    assert is_reused(again)
    assert again.entries == first.entries
