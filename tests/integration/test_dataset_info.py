import itertools
import json
import multiprocessing
import os
import random
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import TAGS

from mig_selector.errors import PoolError, RegistrationError
from mig_selector.integration import dataset_info
from mig_selector.integration.dataset_info import (
    absolute_entry,
    build_entry,
    check_name_is_free,
    read_dataset_info,
    register_entries,
    resolve_entry,
    set_member,
)
from mig_selector.pool.entry import HubSource, LocalSource


FINGERPRINT, OTHER_FINGERPRINT = "ab" * 32, "cd" * 32
ENTRIES = {
    "pool": {"file_name": "pool.jsonl", "formatting": "sharegpt", "columns": {"messages": "dialogs"}, "tags": TAGS},
    "答え é": {"hf_hub_url": "a/b", "note": 'a "quoted" } brace { and \\ "mig": [1, 2]'},
    "nested": {"file_name": "x.json", "deep": {"er": [{"a": {}}, [], {}, 1.5e-7, None, True]}},
}
NEW = {"file_name": "mig_selections/x/selected.jsonl", "columns": {"messages": "dialogs"}, "mig_selector": FINGERPRINT}
INDENTS = [2, 4, 1, 3, "\t", "\t\t", None]


def never(name):
    raise AssertionError(name)


# Editing the text of dataset_info.json


@pytest.mark.parametrize("ensure_ascii", [True, False])
@pytest.mark.parametrize("tail", ["", "\n", "\n\n", "  "])
@pytest.mark.parametrize("indent", INDENTS)
def test_a_new_member_is_written_as_the_file_is_written(indent, tail, ensure_ascii):
    text = json.dumps(ENTRIES, indent=indent, ensure_ascii=ensure_ascii) + tail
    expected = json.dumps({**ENTRIES, "pool_mig_1k": NEW}, indent=indent, ensure_ascii=ensure_ascii) + tail
    assert set_member(text, "pool_mig_1k", NEW) == expected


@pytest.mark.parametrize("name", ["first", "middle", "last"])
@pytest.mark.parametrize("indent", INDENTS)
def test_an_existing_member_is_replaced_where_it_is(indent, name):
    entries = {"first": ENTRIES["pool"], "middle": ENTRIES["nested"], "last": ENTRIES["pool"]}
    text = json.dumps(entries, indent=indent) + "\n"
    assert set_member(text, name, NEW) == json.dumps({**entries, name: NEW}, indent=indent) + "\n"


@pytest.mark.parametrize("indent", [2, "\t"])
def test_windows_line_ends_are_kept(indent):
    text = json.dumps(ENTRIES, indent=indent).replace("\n", "\r\n") + "\r\n"
    expected = json.dumps({**ENTRIES, "new": NEW}, indent=indent).replace("\n", "\r\n") + "\r\n"
    assert set_member(text, "new", NEW) == expected


@pytest.mark.parametrize("text", ["{}", "{ }", "{\n}", "{\r\n}\r\n", " {} \n", "{\n\n}"])
def test_a_member_can_be_added_to_an_empty_object(text):
    found = set_member(text, "new", NEW)
    assert json.loads(found) == {"new": NEW}
    assert found.startswith(text[: text.index("{") + 1])
    assert found.endswith(text[text.index("}") :])
    assert ("\r" in found) == ("\r" in text)
    assert set_member(found, "new", {"a": 1}) == set_member(text, "new", {"a": 1})


def test_odd_layouts_are_left_alone():
    assert set_member('{"a":{"b":1}}', "n", {"x": 1}) == '{"a":{"b":1}, "n": {"x": 1}}'
    assert set_member('{\n"a": 1\n}', "n", {"x": 1}) == '{\n"a": 1,\n"n": {"x": 1}\n}'
    assert set_member('{  "a" : 1 ,\n\n  "b":2\n\n}', "a", {"x": 1}) == '{  "a" : {"x": 1} ,\n\n  "b":2\n\n}'


class Renderer:
    """Writes JSON with random white space and escapes, and records the spans of the top-level values."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.style = self.random.choice(["", " ", "\n", "\n  ", "\r\n\t", "mixed"])

    def space(self):
        if self.style != "mixed":
            return self.random.choice(["", self.style])
        return "".join(self.random.choices(" \t\r\n", k=self.random.randint(0, 3)))

    def value(self, value):
        if isinstance(value, dict):
            return self.wrap(
                "{}", [f"{self.value(k)}{self.space()}:{self.space()}{self.value(value[k])}" for k in value]
            )
        if isinstance(value, list):
            return self.wrap("[]", [self.value(item) for item in value])
        return json.dumps(value, ensure_ascii=self.random.random() < 0.5)

    def wrap(self, brackets, parts):
        inner = ",".join(f"{self.space()}{part}{self.space()}" for part in parts)
        return f"{brackets[0]}{inner or self.space()}{brackets[1]}"

    def top(self, members):
        text = f"{self.space()}{{"
        spans = {}
        for name, value in members.items():
            text += f"{',' if spans else ''}{self.space()}{self.value(name)}{self.space()}:{self.space()}"
            start = len(text)
            text += self.value(value)
            spans[name] = (start, len(text))
            text += self.space()
        return text + f"{self.space()}}}{self.space()}", spans


_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ['"', "\\", "{", "}", '","', "\n"]
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=8,
)
_OBJECTS = st.dictionaries(_TEXTS, _VALUES, max_size=4)


@settings(max_examples=300, deadline=None)
@given(_OBJECTS, _TEXTS, _OBJECTS, st.integers(0, 2**32))
def test_nothing_but_the_member_changes_whatever_the_file_looks_like(members, name, value, seed):
    text, spans = Renderer(seed).top(members)
    assert json.loads(text) == members
    found = set_member(text, name, value)
    parsed = json.loads(found)
    assert parsed == {**members, name: value}
    assert list(parsed) == list({**members, name: value})
    if name in spans:
        start, end = spans[name]
        assert found.startswith(text[:start])
        assert found.endswith(text[end:])
    elif members:
        end = max(end for _, end in spans.values())
        assert found.startswith(text[:end])
        assert found.endswith(text[end:])
    else:
        assert found.startswith(text[: text.index("{") + 1])
        assert found.endswith(text[text.index("}") :])
    assert set_member(found, name, value) == found


# Registration


@pytest.fixture
def info_file(tmp_path):
    """A dataset_info.json on disk."""
    path = tmp_path / "dataset_info.json"
    path.write_bytes((json.dumps(ENTRIES, indent=4, ensure_ascii=False)).encode())
    return path


def test_entries_are_registered_and_the_rest_of_the_file_stays(info_file):
    before = info_file.read_bytes()
    info_file.chmod(0o640)
    register_entries(info_file, {"one": NEW, "two": {**NEW, "file_name": "other"}}, never)
    after = info_file.read_bytes()
    assert after.startswith(before[: before.rindex(b"\n}")])
    assert json.loads(after) == {**ENTRIES, "one": NEW, "two": {**NEW, "file_name": "other"}}
    assert info_file.stat().st_mode & 0o777 == 0o640
    assert not list(info_file.parent.glob("*.tmp"))


def test_nothing_is_written_where_nothing_changes(info_file):
    register_entries(info_file, {"one": NEW}, never)
    before = info_file.stat()
    register_entries(info_file, {"one": NEW}, never)
    register_entries(info_file, {}, never)
    after = info_file.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_an_entry_of_the_plugin_is_repointed_and_reported(info_file):
    register_entries(info_file, {"one": NEW, "two": NEW}, never)
    repointed = []
    again = {**NEW, "file_name": "elsewhere", "mig_selector": OTHER_FINGERPRINT}
    register_entries(info_file, {"two": NEW, "one": again}, repointed.append)
    assert repointed == ["one"]
    assert json.loads(info_file.read_text(encoding="utf-8")) == {**ENTRIES, "one": again, "two": NEW}
    assert list(json.loads(info_file.read_bytes())) == [*ENTRIES, "one", "two"]


def test_a_foreign_entry_is_never_overwritten(info_file):
    before = info_file.read_bytes()
    with pytest.raises(RegistrationError, match="already has an entry 'pool' that mig_selector did not write"):
        register_entries(info_file, {"fine": NEW, "pool": NEW}, never)
    assert info_file.read_bytes() == before
    info = read_dataset_info(str(info_file.parent), [])
    check_name_is_free(info, "fine")
    with pytest.raises(RegistrationError, match="set mig_dataset_name to another name"):
        check_name_is_free(info, "答え é")


def test_a_foreign_entry_that_appears_meanwhile_is_not_overwritten(info_file):
    info = read_dataset_info(str(info_file.parent), [])
    check_name_is_free(info, "late")
    info_file.write_text(json.dumps({**ENTRIES, "late": {"file_name": "mine.json"}}))
    with pytest.raises(RegistrationError, match="'late'"):
        register_entries(info_file, {"late": NEW}, never)


@pytest.mark.parametrize("content", ["{", "[]", '{"pool": 1}', None])
def test_a_file_that_is_broken_or_gone_meanwhile_is_a_clear_error(info_file, content):
    if content is None:
        info_file.unlink()
    else:
        info_file.write_text(content)
    with pytest.raises(RegistrationError, match=r"dataset_info\.json"):
        register_entries(info_file, {"pool": NEW}, never)


def test_a_link_to_the_file_stays_a_link(tmp_path, info_file):
    (tmp_path / "data").mkdir()
    link = tmp_path / "data" / "dataset_info.json"
    link.symlink_to(info_file)
    register_entries(link, {"one": NEW}, never)
    assert link.is_symlink()
    assert "one" in json.loads(info_file.read_bytes())


def test_names_that_are_there_twice_are_refused_with_their_lines(tmp_path):
    path = tmp_path / "dataset_info.json"
    text = '{\n "a": {"file_name": "1"},\n "b": {"mig_selector": "x"}, "a": {},\n "\\u0061": {"file_name": "2"}\n}\n'
    path.write_text(text)
    message = r"dataset_info\.json has names more than once: 'a' in lines 2, 3, 4\. Keep one entry of each name\."
    with pytest.raises(PoolError, match=message):
        read_dataset_info(str(tmp_path), ["a"])
    for name in ("new", "b"):
        with pytest.raises(RegistrationError, match=message):
            register_entries(path, {name: NEW}, never)
    assert path.read_text() == text


def test_keys_that_are_twice_in_an_entry_do_not_matter(tmp_path):
    path = tmp_path / "dataset_info.json"
    path.write_text('{"a": {"file_name": "1", "file_name": "2"}}')
    register_entries(path, {"new": NEW}, never)
    assert read_dataset_info(str(tmp_path), ["a"]).entries == {"a": {"file_name": "2"}, "new": NEW}


def test_an_edit_that_would_mean_something_else_is_not_written(info_file, monkeypatch):
    before = info_file.read_bytes()
    for spoil in (lambda text: text.replace("pool.jsonl", "pool"), lambda text: text[:-1]):
        monkeypatch.setattr(
            dataset_info, "set_member", lambda text, name, value, spoil=spoil: spoil(set_member(text, name, value))
        )
        with pytest.raises(RegistrationError, match=r"dataset_info\.json cannot be"):
            register_entries(info_file, {"new": NEW}, never)
        assert info_file.read_bytes() == before


def test_numbers_that_json_does_not_have_are_no_hindrance(tmp_path):
    path = tmp_path / "dataset_info.json"
    path.write_text('{"a": {"x": NaN, "y": 1e999}}')
    register_entries(path, {"new": NEW}, never)
    assert path.read_text() == f'{{"a": {{"x": NaN, "y": 1e999}}, "new": {json.dumps(NEW)}}}'


@pytest.mark.parametrize("mode", [0o640, 0o600, 0o666])
def test_owner_group_and_mode_are_kept_when_root_registers(info_file, mode):
    owner = (1234, 2345) if os.getuid() == 0 else (os.getuid(), os.getgid())  # others cannot give files away
    os.chown(info_file, *owner)
    info_file.chmod(mode)
    register_entries(info_file, {"one": NEW}, never)
    status = info_file.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (*owner, mode)
    assert "one" in json.loads(info_file.read_bytes())


def test_a_save_without_the_lock_between_reading_and_renaming_is_not_lost(info_file, monkeypatch):
    synced, saves = os.fsync, iter(["late", "later"])

    def save_and_sync(handle):
        synced(handle)
        for name in itertools.islice(saves, 1):
            entries = {**json.loads(info_file.read_bytes()), name: {"file_name": "theirs.json"}}
            info_file.write_text(json.dumps(entries))

    register_entries(info_file, {"one": {**NEW, "mig_selector": OTHER_FINGERPRINT}}, never)
    monkeypatch.setattr(os, "fsync", save_and_sync)
    repointed = []
    register_entries(info_file, {"one": NEW}, repointed.append)
    theirs = {"file_name": "theirs.json"}
    assert json.loads(info_file.read_bytes()) == {**ENTRIES, "one": NEW, "late": theirs, "later": theirs}
    assert repointed == ["one"]
    assert sorted(path.name for path in info_file.parent.iterdir()) == [".dataset_info.json.lock", info_file.name]


def test_a_file_that_never_comes_to_rest_is_a_clear_error(info_file, monkeypatch):
    synced, numbers = os.fsync, itertools.count()

    def save_and_sync(handle):
        synced(handle)
        info_file.write_text(json.dumps({**ENTRIES, "number": {"x": next(numbers)}}))

    monkeypatch.setattr(os, "fsync", save_and_sync)
    with pytest.raises(RegistrationError, match="another program changed it 20 times meanwhile"):
        register_entries(info_file, {"one": NEW}, never)
    assert json.loads(info_file.read_bytes()) == {**ENTRIES, "number": {"x": 19}}


def register_many(path, worker):
    for number in range(5):
        register_entries(path, {f"w{worker}_{number}": {**NEW, "worker": worker}}, never)


def test_eight_processes_that_register_at_once_lose_nothing(info_file):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=register_many, args=(info_file, worker)) for worker in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 8
    found = json.loads(info_file.read_bytes())
    new = {f"w{worker}_{number}": {**NEW, "worker": worker} for worker in range(8) for number in range(5)}
    assert found == {**ENTRIES, **new}
    assert list(found)[:3] == list(ENTRIES)


# Reading


def test_the_entries_of_a_folder_are_read(info_file, monkeypatch):
    info = read_dataset_info(str(info_file.parent), ["pool", "nested"])
    assert info.entries == ENTRIES
    assert info.path == info_file
    assert info.folder == info_file.parent
    monkeypatch.chdir(info_file.parent.parent)
    relative = read_dataset_info(info_file.parent.name, ["pool"])
    assert relative.path == info_file
    assert relative.folder == info_file.parent


@pytest.mark.parametrize(
    ("content", "names", "message"),
    [
        (None, [], r"dataset_dir: .*dataset_info\.json does not exist; give the folder that holds dataset_info.json"),
        ("\ufeff{}", [], r"dataset_info\.json begins with a byte-order mark, .*; save it as UTF-8 without one"),
        ("{", [], r"dataset_info\.json is not valid JSON"),
        ("[]", [], r"dataset_info\.json must hold one JSON object per dataset name"),
        ('{"a": 1}', [], r"dataset_info\.json must hold one JSON object per dataset name"),
        ('{"b": {}, "a": {}}', ["a", "c"], r"dataset: 'c' is not in .*dataset_info\.json; it has a, b"),
        ("{}", ["c"], "dataset: 'c' is not in .*; it has no entries"),
        (json.dumps({f"{n:03}": {} for n in range(900)}), ["c"], r"; it has 000, .*, 049, \.\.\.\.$"),
        ('{"a": ' * 200_000, [], r"dataset_info\.json is nested too deeply"),
        (f'{{"a": {{"x": {"1" * 5_000}}}}}', [], r"dataset_info\.json is not valid JSON"),
        (f'{{"a": {{}}}}{" " * (64 << 20)}', [], r"dataset_info\.json must be a file of at most 64 MiB"),
    ],
)
def test_an_unusable_dataset_info_is_a_clear_error(tmp_path, content, names, message):
    if content is not None:
        (tmp_path / "dataset_info.json").write_text(content)
    with pytest.raises(PoolError, match=message):
        read_dataset_info(str(tmp_path), names)


def test_a_dataset_of_another_key_or_place_is_named_as_such(tmp_path):
    (tmp_path / "dataset_info.json").write_text('{"a": {}}')
    with pytest.raises(PoolError, match=r"^eval_dataset: 'c' is not in .*; it has a\."):
        read_dataset_info(str(tmp_path), ["a"], ["c"])
    with pytest.raises(PoolError, match=r"^dataset_dir: .*info\.json is a file; give the folder that holds"):
        read_dataset_info(str(tmp_path / "dataset_info.json"), [])


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_a_dataset_info_that_is_not_a_file_is_a_clear_error(tmp_path, make):
    make(tmp_path / "dataset_info.json")
    with pytest.raises(PoolError, match=r"dataset_info\.json must be a file"):
        read_dataset_info(str(tmp_path), [])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"columns": "prompt"}, "columns must be an object, got the string 'prompt'"),
        ({"columns": None}, "columns must be an object, got null"),
        ({"columns": {"prompt": ["a"]}}, r"columns\.prompt must be a string, got a list"),
        ({"columns": {"messages": 7}}, r"columns\.messages must be a string, got the number 7"),
        ({"tags": [1]}, "tags must be an object, got a list"),
        ({"tags": {"role_tag": {}, "content_tag": {"a": 1}}}, r"tags\.content_tag must be a string, got an object"),
        ({"formatting": 1}, "formatting must be a string, got the number 1"),
        ({"split": ["train"]}, "split must be a string, got a list"),
        ({"subset": 1.5}, r"subset must be a string, got the number 1\.5"),
        ({"folder": True}, "folder must be a string, got true"),
        ({"hf_hub_url": {}}, "hf_hub_url must be a string, got an object"),
        ({"ms_hub_url": None}, "ms_hub_url must be a string, got null"),
        ({"file_name": 1}, "the entry names no file"),
    ],
)
def test_an_entry_with_a_value_of_the_wrong_type_is_a_clear_error(tmp_path, entry, message):
    with pytest.raises(PoolError, match=f"dataset 'a': {message}"):
        resolve_entry("a", {"file_name": "a.jsonl", **entry}, tmp_path)


def test_values_that_the_host_ignores_may_be_anything(tmp_path):
    entry = {"file_name": "a.jsonl", "columns": {"comment": 5, "system": None}, "tags": {"x": []}, "subset": None}
    assert resolve_entry("a", {**entry, "note": [1]}, tmp_path).columns == {}


def test_online_makes_an_entry_per_name_and_has_no_file():
    info = read_dataset_info("ONLINE", ["org/a", "org/b"])
    assert list(info.entries) == ["org/a", "org/b"]
    assert info.path is info.folder is None
    assert resolve_entry("org/a", info.entries["org/a"], info.folder).source == HubSource("hf", "org/a", None, None)


def test_a_remote_dataset_dir_is_downloaded_and_has_no_file_to_write(info_file, monkeypatch):
    asked = {}

    def download(**keywords):
        asked.update(keywords)
        return str(info_file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    info = read_dataset_info("REMOTE:org/repo", ["pool"])
    assert asked == {"repo_id": "org/repo", "filename": "dataset_info.json", "repo_type": "dataset"}
    assert info.entries == ENTRIES
    assert info.path is info.folder is None


@pytest.mark.slow
def test_a_remote_dataset_dir_that_cannot_be_downloaded_is_a_clear_error():
    with pytest.raises(PoolError, match=r"dataset_dir: dataset_info\.json of 'org/repo' cannot be downloaded"):
        read_dataset_info("REMOTE:org/repo", ["pool"])


@pytest.mark.parametrize("denied", ["dataset_info.json", "."])
@pytest.mark.parametrize("is_link", [True, False])
def test_a_file_or_folder_without_write_permission_is_not_written(tmp_path, info_file, monkeypatch, denied, is_link):
    folder = info_file.parent
    if is_link:
        folder = tmp_path / "linked"
        folder.mkdir()
        (folder / "dataset_info.json").symlink_to(info_file)
    assert read_dataset_info(str(folder), ["pool"]).path == folder / "dataset_info.json"
    refused = (info_file.parent / denied).resolve()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).resolve() != refused)  # root may write everywhere
    assert read_dataset_info(str(folder), ["pool"]).path is None


# What an entry means


FULL_COLUMNS = {
    "prompt": "p",
    "query": "q",
    "response": "r",
    "history": "h",
    "messages": "m",
    "system": "s",
    "tools": "t",
    "images": "i",
    "videos": "v",
    "audios": "a",
    "chosen": "c",
    "rejected": "x",
    "kto_tag": "k",
}
RAW_ENTRIES = [
    {"file_name": "a.json"},
    {"file_name": "sub/a.jsonl", "columns": {"prompt": "instruction", "response": "output"}},
    {"file_name": "../a.json", "columns": {}},
    {"file_name": "a.json", "columns": {"messages": "dialogs"}, "formatting": "sharegpt"},
    {"file_name": "a.json", "columns": FULL_COLUMNS, "formatting": "sharegpt", "tags": TAGS},
    {"file_name": "a.json", "columns": {**FULL_COLUMNS, "unknown": "u", "system": None, "tools": ""}},
    {"file_name": "a.json", "formatting": "sharegpt"},
    {"file_name": "a.json", "formatting": "openai", "tags": {"role_tag": "role"}},
    {"file_name": "a.json", "tags": {}},
    {"file_name": "a.json", "tags": {**TAGS, "observation_tag": "obs", "function_tag": "fun"}},
    {"file_name": "a.json", "ranking": True, "columns": {"prompt": "p", "chosen": "c", "rejected": "r"}},
    {"file_name": "a.json", "split": "train[:50%]", "num_samples": 10},
    {"file_name": "/absolute/a.parquet", "subset": "ignored", "folder": "ignored", "mig_selector": FINGERPRINT},
    {"hf_hub_url": "org/hf"},
    {"hf_hub_url": "org/hf", "subset": "sub", "folder": "dir", "split": "test"},
    {"hf_hub_url": "org/hf", "file_name": "a.json", "script_url": "s", "cloud_file_name": "c"},
    {"ms_hub_url": "org/ms"},
    {"om_hub_url": "org/om"},
    {"hf_hub_url": "org/hf", "ms_hub_url": "org/ms"},
    {"hf_hub_url": "org/hf", "om_hub_url": "org/om"},
    {"ms_hub_url": "org/ms", "om_hub_url": "org/om"},
    {"hf_hub_url": "org/hf", "ms_hub_url": "org/ms", "om_hub_url": "org/om", "file_name": "a.json"},
    {"script_url": "script"},
    {"script_url": "script", "file_name": "a.json"},
    {"cloud_file_name": "s3://x"},
    {"cloud_file_name": "s3://x", "file_name": "a.json"},
]
ENVIRONMENTS = [
    {},
    {"USE_MODELSCOPE_HUB": "1"},
    {"USE_MODELSCOPE_HUB": "True"},
    {"USE_MODELSCOPE_HUB": "0"},
    {"USE_OPENMIND_HUB": "y"},
    {"USE_MODELSCOPE_HUB": "no", "USE_OPENMIND_HUB": "yes"},
    {"USE_MODELSCOPE_HUB": "1", "USE_OPENMIND_HUB": "1"},
]


@dataclass
class Theirs:
    """The host's interpretation of an entry."""

    attributes: object

    @property
    def source(self):
        a = self.attributes
        hub = {"hf_hub": "hf", "ms_hub": "ms"}.get(a.load_from)
        return HubSource(hub, a.dataset_name, a.subset, a.folder) if hub else a.load_from


@pytest.mark.llamafactory
@pytest.mark.parametrize("variables", ENVIRONMENTS, ids=str)
@pytest.mark.parametrize("raw", RAW_ENTRIES, ids=json.dumps)
def test_an_entry_means_what_it_means_to_the_host(tmp_path, monkeypatch, raw, variables):
    from llamafactory.data.parser import get_dataset_list

    for name in ("USE_MODELSCOPE_HUB", "USE_OPENMIND_HUB"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "dataset_info.json").write_text(json.dumps({"pool": raw}))
    (theirs,) = get_dataset_list(["pool"], str(tmp_path))
    info = read_dataset_info(str(tmp_path), ["pool"])
    if theirs.load_from in ("om_hub", "script", "cloud_file"):
        key = {"om_hub": "om_hub_url", "script": "script_url", "cloud_file": "cloud_file_name"}[theirs.load_from]
        with pytest.raises(PoolError, match=f"dataset 'pool': {key} is not supported"):
            resolve_entry("pool", info.entries["pool"], info.folder)
        return
    ours = resolve_entry("pool", info.entries["pool"], info.folder)
    assert ours.columns == {role: getattr(theirs, role) for role in FULL_COLUMNS if getattr(theirs, role)}
    assert ours.tags == {tag: getattr(theirs, tag) for tag in (*TAGS, "observation_tag", "function_tag")}
    assert (ours.formatting, ours.ranking, ours.split) == (theirs.formatting, theirs.ranking, theirs.split)
    if theirs.load_from == "file":
        assert isinstance(ours.source, LocalSource)
        assert ours.source.file_name == theirs.dataset_name
        assert ours.source.path == tmp_path / theirs.dataset_name  # as the host opens it
        assert ours.source.path.is_absolute()
    else:
        assert ours.source == Theirs(theirs).source


def test_a_file_above_a_linked_folder_is_the_one_that_the_host_opens(tmp_path):
    (tmp_path / "disk" / "data").mkdir(parents=True)
    (tmp_path / "data").symlink_to(tmp_path / "disk" / "data")
    for folder in (tmp_path, tmp_path / "disk"):
        (folder / "pool.json").write_text("[]")
    source = resolve_entry("pool", {"file_name": "../pool.json"}, tmp_path / "data").source
    assert isinstance(source, LocalSource)
    assert source.path.samefile(tmp_path / "disk" / "pool.json")


@pytest.mark.llamafactory
@pytest.mark.parametrize("variables", ENVIRONMENTS, ids=str)
def test_online_names_mean_what_they_mean_to_the_host(monkeypatch, variables):
    from llamafactory.data.parser import get_dataset_list

    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (theirs,) = get_dataset_list(["org/x"], "ONLINE")
    raw = read_dataset_info("ONLINE", ["org/x"]).entries["org/x"]
    if theirs.load_from == "om_hub":
        with pytest.raises(PoolError, match="om_hub_url is not supported"):
            resolve_entry("org/x", raw, None)
        return
    ours = resolve_entry("org/x", raw, None)
    assert ours.source == Theirs(theirs).source
    assert ours.columns == {role: getattr(theirs, role) for role in FULL_COLUMNS if getattr(theirs, role)}
    assert ours.formatting == theirs.formatting == "alpaca"


@pytest.mark.llamafactory
def test_the_host_has_only_these_file_types_roles_and_tags():
    from dataclasses import fields

    from llamafactory.data.parser import DatasetAttr
    from llamafactory.extras.constants import DATA_CONFIG, FILEEXT2TYPE

    from mig_selector.pool.formats.files import _FORMATS

    assert DATA_CONFIG == "dataset_info.json"
    assert {key: value for key, value in FILEEXT2TYPE.items() if key != "txt"} == _FORMATS
    basic = {"load_from", "dataset_name", "formatting", "ranking", "subset", "split", "folder", "num_samples"}
    known = {*basic, *FULL_COLUMNS, *TAGS, "observation_tag", "function_tag"}
    assert {field.name for field in fields(DatasetAttr)} == known


def test_hub_entries_take_the_keys_of_the_host():
    keys = {"cache_dir": "/c", "hf_hub_token": "h", "ms_hub_token": "m"}
    raw = {"hf_hub_url": "a", "subset": "s", "folder": "f"}
    assert resolve_entry("n", raw, None, **keys).source == HubSource("hf", "a", "s", "f", "/c", "h")
    assert resolve_entry("n", {"ms_hub_url": "a"}, None, **keys).source == HubSource("ms", "a", None, None, "/c", "m")


@pytest.mark.parametrize(
    ("raw", "folder"), [({}, Path("/d")), ({"file_name": 3}, Path("/d")), ({"file_name": "a"}, None)]
)
def test_an_entry_without_a_source_is_an_error(raw, folder):
    with pytest.raises(PoolError, match="dataset 'n': the entry names no file"):
        resolve_entry("n", raw, folder)


# The entry of a subset


RAW = {
    "split": "train[:50%]",
    "file_name": "pool.jsonl",
    "num_samples": 100,
    "formatting": "sharegpt",
    "subset": "s",
    "columns": {"messages": "dialogs", "system": "system"},
    "folder": "f",
    "tags": TAGS,
    "hf_hub_url": "h",
    "ms_hub_url": "m",
    "om_hub_url": "o",
    "script_url": "s",
    "cloud_file_name": "c",
    "ranking": False,
    "file_sha1": "kept",
}


def test_a_new_entry_copies_the_pools_except_what_would_resample_or_redirect_it():
    resolved = resolve_entry("pool", RAW, Path("/data"))
    found = build_entry(RAW, resolved, resolved.columns, "mig_selections/x/selected.jsonl", FINGERPRINT)
    assert found == {
        "file_name": "mig_selections/x/selected.jsonl",
        "formatting": "sharegpt",
        "columns": {"messages": "dialogs", "system": "system"},
        "tags": TAGS,
        "ranking": False,
        "file_sha1": "kept",
        "mig_selector": FINGERPRINT,
    }


def test_a_new_entry_names_only_the_columns_that_the_subset_has():
    resolved = resolve_entry("pool", RAW, Path("/data"))
    assert build_entry(RAW, resolved, {"messages": "dialogs"}, "f", FINGERPRINT)["columns"] == {"messages": "dialogs"}
    bare = {"file_name": "a.json"}
    resolved = resolve_entry("pool", bare, Path("/data"))
    assert "columns" not in build_entry(bare, resolved, resolved.columns, "f", FINGERPRINT)
    columns = {"prompt": "instruction", "response": "output"}
    assert build_entry(bare, resolved, columns, "f", FINGERPRINT)["columns"] == columns


def test_an_entry_made_from_an_entry_of_the_plugin_has_the_new_fingerprint():
    raw = {**NEW, "mig_selector": OTHER_FINGERPRINT}
    assert build_entry(raw, resolve_entry("pool", raw, Path("/d")), {"messages": "dialogs"}, "f", FINGERPRINT) == {
        "file_name": "f",
        "columns": {"messages": "dialogs"},
        "mig_selector": FINGERPRINT,
    }


@pytest.mark.llamafactory
def test_the_host_ignores_the_extra_key_and_reads_the_new_entry_as_meant(tmp_path):
    from llamafactory.data.parser import get_dataset_list

    resolved = resolve_entry("pool", RAW, tmp_path)
    entry = build_entry(RAW, resolved, {"messages": "dialogs"}, "sub/selected.jsonl", FINGERPRINT)
    (tmp_path / "dataset_info.json").write_text("{}")
    register_entries(tmp_path / "dataset_info.json", {"pool_mig": entry}, never)
    (theirs,) = get_dataset_list(["pool_mig"], str(tmp_path))
    assert (theirs.load_from, theirs.dataset_name) == ("file", "sub/selected.jsonl")
    assert (theirs.split, theirs.num_samples, theirs.subset, theirs.folder) == ("train", None, None, None)
    assert (theirs.messages, theirs.system, theirs.prompt) == ("dialogs", None, None)
    assert theirs.role_tag == "role"


def test_an_absolute_entry_can_be_copied_to_another_folder():
    raw = {"file_name": "sub/a.json", "script_url": "s", "columns": {"messages": "m"}}
    assert absolute_entry(raw, Path("/data")) == {
        "file_name": "/data/sub/a.json",
        "script_url": "/data/s",
        "columns": {"messages": "m"},
    }
    assert absolute_entry({"file_name": "/x/a.json"}, Path("/data")) == {"file_name": "/x/a.json"}
    assert absolute_entry({"hf_hub_url": "org/a"}, Path("/data")) == {"hf_hub_url": "org/a"}
    assert absolute_entry({"hf_hub_url": "org/a"}, None) == {"hf_hub_url": "org/a"}
    assert raw["file_name"] == "sub/a.json"
