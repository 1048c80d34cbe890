import multiprocessing
import os
import stat
import subprocess
import sys
import time

import pytest
from support import ROOT

from mig_selector.store import files
from mig_selector.store.files import (
    is_writable,
    locked,
    locked_if_free,
    read_json,
    whole_file,
    write_json,
    write_text,
)


def names_in(folder):
    return [path.name for path in folder.iterdir()]


def test_a_file_appears_complete_and_its_folder_is_created(tmp_path):
    path = tmp_path / "new" / "folder" / "file.txt"
    with whole_file(path) as stream:
        stream.write(b"first ")
        stream.flush()
        assert not path.exists()
        stream.write(b"second")
    assert path.read_bytes() == b"first second"
    assert names_in(path.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_content_and_nothing_else(tmp_path, error):
    path = tmp_path / "file.txt"
    path.write_text("old")
    before = path.stat()

    def write():
        with whole_file(path) as stream:
            stream.write(b"new")
            stream.flush()
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert path.stat().st_ino == before.st_ino
    assert names_in(tmp_path) == ["file.txt"]


def test_an_exception_leaves_no_file_where_none_was(tmp_path):
    def write():
        with whole_file(tmp_path / "file.txt") as stream:
            stream.write(b"new")
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011  our own
        write()
    assert names_in(tmp_path) == []


def start_writing(path):
    """Start a process that writes a part of `path` and waits."""
    program = (
        "import pathlib, sys, time; from mig_selector.store.files import whole_file\n"
        "with whole_file(pathlib.Path(sys.argv[1])) as stream:\n"
        "    stream.write(b'half'); stream.flush(); print('written', flush=True); sys.stdin.read()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    assert process.stdout.readline() == b"written\n"
    return process


def age(folder, seconds):
    for file in folder.glob(".*.tmp"):
        os.utime(file, (time.time() - seconds,) * 2)


def test_temporary_files_of_a_killed_writer_are_removed_by_a_later_one(tmp_path):
    process = start_writing(tmp_path / "file [1].txt")
    process.kill()
    process.communicate()
    (tmp_path / ".other.txt.x1y2.tmp").touch()
    assert len(names_in(tmp_path)) == 2
    age(tmp_path, 30)  # its writer may not have locked it yet
    write_text(tmp_path / "file [1].txt", "whole")
    assert len(names_in(tmp_path)) == 3
    age(tmp_path, 90)
    write_text(tmp_path / "file [1].txt", "whole")
    assert sorted(names_in(tmp_path)) == [".other.txt.x1y2.tmp", "file [1].txt"]


def test_the_temporary_file_of_a_live_writer_is_left_alone_however_old_it_is(tmp_path):
    process = start_writing(tmp_path / "file.txt")
    age(tmp_path, 1_000_000)
    write_text(tmp_path / "file.txt", "from another process")
    assert len(names_in(tmp_path)) == 2
    process.communicate()
    assert process.returncode == 0
    assert (tmp_path / "file.txt").read_bytes() == b"half"
    assert names_in(tmp_path) == ["file.txt"]


def test_a_link_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real" / "file.txt")
    write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real" / "file.txt").read_text() == "new"
    assert names_in(tmp_path / "real") == ["file.txt"]


@pytest.mark.parametrize("write", [write_json, lambda path, text: write_text(path, text, follow_link=False)])
def test_a_link_is_replaced_where_only_files_of_ours_belong(tmp_path, write):
    (tmp_path / "theirs.txt").write_text("theirs")
    (tmp_path / "theirs.txt").chmod(0o600)
    (tmp_path / "link.txt").symlink_to("theirs.txt")
    write(tmp_path / "link.txt", "ours")
    assert (tmp_path / "theirs.txt").read_text() == "theirs"
    assert not (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "link.txt").read_text().strip('"\n') == "ours"
    assert stat.S_IMODE((tmp_path / "link.txt").stat().st_mode) == 0o666 & ~files._umask()


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664, 0o400])
def test_the_mode_of_an_old_file_is_kept(tmp_path, mode):
    path = tmp_path / "file.txt"
    path.write_text("old")
    path.chmod(mode)
    write_text(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize(
    ("umask", "mode", "private_mode"), [(0o022, 0o644, 0o644), (0o077, 0o600, 0o600), (0o002, 0o664, 0o644)]
)
def test_a_new_file_obeys_the_umask(tmp_path, umask, mode, private_mode):
    before = os.umask(umask)
    try:
        write_text(tmp_path / "file.txt", "new")
        write_json(tmp_path / "file.json", "new", is_private=True)
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file.txt").stat().st_mode) == mode
    assert stat.S_IMODE((tmp_path / "file.json").stat().st_mode) == private_mode


def test_owner_and_group_of_an_old_file_are_kept_where_root_writes(tmp_path):
    owner = (1234, 2345) if os.getuid() == 0 else (os.getuid(), os.getgid())  # others cannot give files away
    (tmp_path / "file.txt").write_text("old")
    os.chown(tmp_path / "file.txt", *owner)
    write_text(tmp_path / "file.txt", "new")
    status = (tmp_path / "file.txt").stat()
    assert (status.st_uid, status.st_gid) == owner


def test_text_and_json_are_utf_8(tmp_path):
    write_text(tmp_path / "text", "é\r\n答え")
    assert (tmp_path / "text").read_bytes() == "é\r\n答え".encode()
    write_json(tmp_path / "value.json", {"é": [1, None]})
    assert (tmp_path / "value.json").read_bytes() == '{\n  "é": [\n    1,\n    null\n  ]\n}\n'.encode()
    assert read_json(tmp_path / "value.json") == {"é": [1, None]}


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff", b"[" * 200_000])
def test_a_json_file_that_is_absent_or_broken_reads_as_none(tmp_path, content):
    if content is not None:
        (tmp_path / "file.json").write_bytes(content)
    assert read_json(tmp_path / "file.json") is None


def count_up(path, times):
    for _ in range(times):
        with locked(path):
            write_text(path, str(int(path.read_text()) + 1))


def test_under_a_lock_no_writer_overwrites_the_work_of_another(tmp_path):
    path = tmp_path / "count"
    path.write_text("0")
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link"
    link.symlink_to(path)  # the same file under another name has the same lock
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=count_up, args=(name, 25)) for name in (path, link, path, link)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert path.read_text() == "100"


def test_the_lock_is_beside_the_file_and_ends_with_the_block(tmp_path):
    with locked(tmp_path / "new" / "file"):
        assert (tmp_path / "new" / ".file.lock").exists()
    with locked(tmp_path / "new" / "file"):
        pass


def test_a_lock_that_another_holds_is_not_waited_for(tmp_path):
    with locked(tmp_path / "file"), locked_if_free(tmp_path / "file") as is_held:
        assert not is_held
    with locked_if_free(tmp_path / "file") as is_held:
        assert is_held
        with locked_if_free(tmp_path / "file") as is_held_twice:
            assert not is_held_twice


def test_a_folder_can_be_written_to_if_it_can_be_created(tmp_path):
    assert is_writable(tmp_path / "not" / "there")
