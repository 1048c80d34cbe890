"""Files in cache and output folder are believed only if no other user could have written them."""

import os
from pathlib import Path

import pytest
from support import needs_root

from mig_selector.store.folders import has_private_path, is_believed, is_private


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_text("content")
    return path


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o444, 0o755])
def test_a_file_that_only_this_user_may_write_is_believed(file, mode):
    file.chmod(mode)
    assert is_believed(file)


@needs_root
@pytest.mark.parametrize("mode", [0o666, 0o602, 0o660])
def test_a_file_that_others_may_write_is_not_believed_and_is_named_once(file, caplog, mode):
    os.chown(file, os.geteuid(), 4242)
    file.chmod(mode)
    assert not is_believed(file)
    assert not is_believed(file)
    assert caplog.text.count(f"{file} is not used") == 1


@needs_root
def test_a_group_that_may_only_read_does_no_harm(file):
    os.chown(file, os.geteuid(), 4242)
    file.chmod(0o640)
    assert is_believed(file)


def test_a_file_that_does_not_exist_says_nothing_wrong(tmp_path):
    assert is_believed(tmp_path / "absent")


def test_the_group_that_is_this_user_alone_may_write(file):
    os.chown(file, -1, os.getegid())
    file.chmod(0o664)
    assert is_believed(file)


@needs_root
def test_a_file_of_another_user_is_not_believed(file):
    os.chown(file, 4242, -1)
    file.chmod(0o600)
    assert not is_believed(file)


def test_a_file_of_root_is_believed(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    assert is_private(Path("/etc").stat())


@needs_root
def test_where_a_cache_is_shared_on_purpose_only_arrays_of_others_are_believed(file, monkeypatch):
    os.chown(file, 4242, -1)
    assert not is_believed(file, is_array=True)
    monkeypatch.setenv("MIG_SELECTOR_SHARED_CACHE", "1")
    assert is_believed(file, is_array=True)
    assert not is_believed(file)


def test_a_folder_is_private_only_if_those_above_it_are(tmp_path):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    assert has_private_path(folder)
    folder.parent.chmod(0o777)
    assert not has_private_path(folder)
    folder.parent.chmod(0o1777)  # sticky: others may add names, but not replace this one
    assert has_private_path(folder)
    folder.chmod(0o777)
    assert not has_private_path(folder)


def test_a_link_into_a_folder_that_others_may_write_is_not_private(tmp_path):
    shared = tmp_path / "shared"
    (shared / "kernels").mkdir(parents=True)
    shared.chmod(0o777)
    (tmp_path / "link").symlink_to(shared / "kernels")
    assert not has_private_path(tmp_path / "link")
