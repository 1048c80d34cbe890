"""Text from data is shown by a terminal or a log, never interpreted."""

import json
import unicodedata

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support import LABELS, SHAREGPT, make_rows, run_command, write_vectors

from mig_selector.console import LoggedProgress, printable


EVIL = "\x1b[2J\x1b]0;title\x07\r\x9b31m\u202egnp\u2066\u2028\x85\x00\udcff"
"""ANSI escapes of both kinds, a carriage return, a bidi override, Unicode line ends, NUL, an invalid UTF-8 byte."""
LABEL = f"{EVIL[:-1]}!"
"""The same without the lone surrogate, which is not valid in a label; numpy drops a NUL at the end."""
SHOWN = "\\x1b[2J\\x1b]0;title\\x07\\r\\x9b31m\\u202egnp\\u2066\\u2028\\x85\\x00\\udcff"


def test_characters_that_a_terminal_interprets_are_escaped_and_others_kept():
    assert printable(EVIL) == SHOWN
    assert printable("a\nb") == "a\\nb"
    assert printable("a\nb\tc\rd", keep="\n\t") == "a\nb\tc\\rd"
    plain = "é 答え \u3000\u00a0 🙂 עברית \\n 'quoted'"
    assert printable(plain) == plain


@given(st.text())
def test_only_letters_marks_numbers_symbols_and_spaces_remain(text):
    assert {unicodedata.category(char)[0] for char in printable(text)} <= set("LMNPSZ")
    assert not {"\u2028", "\u2029"} & set(printable(text))


def lines_of_progress(caplog, seconds, counts, total=1000):
    """What is logged where each of `counts` comes in `seconds` after the last one."""
    now = [0.0]
    with caplog.at_level("INFO", logger="mig_selector"):
        bar = LoggedProgress("embedding rows", total, "rows", clock=lambda: now[0])
        for count in counts:
            now[0] += seconds
            bar.update(count)
    return [record.getMessage().removeprefix("embedding rows: ") for record in caplog.records]


def test_without_a_terminal_a_line_is_logged_after_ten_percent_or_ten_seconds(caplog):
    tens = [f"{share} % of 1,000 rows" for share in range(10, 100, 10)]
    assert lines_of_progress(caplog, 1.5, [50] * 20) == ["1,000 rows", *tens]
    caplog.clear()
    assert lines_of_progress(caplog, 4, [1] * 7) == ["1,000 rows", "0 % of 1,000 rows", "0 % of 1,000 rows"]
    caplog.clear()
    assert lines_of_progress(caplog, 0.01, [10] * 100) == ["1,000 rows"]  # quick work is one line
    caplog.clear()
    assert lines_of_progress(caplog, 1, [1], total=1) == ["1 row"]


@pytest.mark.slow
def test_without_a_terminal_nothing_is_redrawn(pool_of_60, command):
    done = command("mig-selector", "select", settings=pool_of_60.settings())
    assert done.returncode == 0, done.stderr
    assert "[mig_selector] reading the pool: " in done.stderr
    assert "\r" not in done.stderr
    assert "%|" not in done.stderr


NAME = f"pool {EVIL}\n.jsonl".replace("\0", "")
SHOWN_NAME = f"pool {SHOWN}\\n.jsonl".replace("\\x00", "")


@pytest.fixture
def evil_pool(workplace):
    """A workplace whose pool file has a name that a file system allows but a log must escape."""
    rows = make_rows(60)
    rows[5]["annotation"]["instag"]["content"] = [LABEL] * 2
    rows[6]["annotation"]["instag"]["content"] = [LABEL]
    workplace.add("pool", rows, file_name=NAME, **SHAREGPT)
    return workplace


@pytest.fixture
def command(tmp_path):
    """A function that runs a command on some settings."""

    def run(*words, settings):
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(settings))
        return run_command(*words, path)

    return run


def controls(text):
    """Return the characters that a terminal would interpret; a progress bar's return is read as a line end."""
    return {char for char in text if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"}} - {"\n"}


def test_a_line_of_the_log_stays_a_line(evil_pool, command):
    write_vectors(evil_pool.vectors, [*LABELS, LABEL])
    done = command("mig-selector", "select", settings=evil_pool.settings(mig_num_samples=60))
    assert done.returncode == 0, done.stderr
    assert f"[mig_selector] pool: read 60 rows of {SHOWN_NAME}, kept 60\n" in done.stderr
    assert controls(done.stderr) == set()


def test_data_in_an_error_are_escaped(evil_pool, command):
    with (evil_pool.data / NAME).open("a") as stream:
        stream.write("{\n")
    done = command("mig-selector", "select", settings=evil_pool.settings())
    assert done.returncode == 1
    shown = SHOWN_NAME.replace("\\n", "\n    ")  # a message may have several lines; none but the first is at the edge
    assert f"mig-selector: error: {shown}:61: is not valid JSON" in done.stderr
    assert controls(done.stderr) == set()


def test_data_in_messages_about_skipped_rows_and_labels_are_escaped(evil_pool, command):
    with (evil_pool.data / NAME).open("a") as stream:
        scores = {"quality_scores": LABEL, "complexity_scores": [1.0]}
        stream.write(json.dumps({"annotation": {"instag": {"content": [LABEL]}, "deita": scores}}) + "\n")
    settings = evil_pool.settings(mig_on_bad_row="skip", mig_num_samples=60)
    done = command("mig-selector", "select", settings=settings)
    assert done.returncode == 1
    assert "skipped 1: row annotation.deita.quality_scores must be " in done.stderr
    assert controls(done.stderr) == set()


def test_line_ends_in_a_librarys_message_are_kept(workplace, command):
    (workplace.data / "pool.parquet").write_bytes(b"PAR1\x00\x00\x00\x00PAR1")
    workplace.add("pool", file_name="pool.parquet", **SHAREGPT)
    done = command("mig-selector", "select", settings=workplace.settings())
    assert done.returncode == 1
    assert "mig-selector: error: pool.parquet: cannot be read as Parquet (" in done.stderr
    assert "\\n" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.llamafactory
def test_the_hosts_command_shows_errors_and_its_log_shows_what_was_chosen(evil_pool, command, tiny_llama, tmp_path):
    training = {
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": tiny_llama,
        "finetuning_type": "full",
        "template": "llama3",
        "output_dir": str(tmp_path / "out"),
        "max_steps": 1,
        "report_to": "none",
        "save_only_model": True,
        **evil_pool.settings(mig_output_dir=str(tmp_path / "out\x1b[31m\n")),
    }
    done = command("llamafactory-cli", "train", settings={**training, "mig_num_samples": 61})
    assert done.returncode == 1
    assert "[mig_selector] error: mig_num_samples: 61 rows" in done.stderr
    write_vectors(evil_pool.vectors, [*LABELS, LABEL])
    done = command("llamafactory-cli", "train", settings=training)
    assert done.returncode == 0, done.stderr[-3000:]
    [line] = [line for line in done.stdout.splitlines() if "mig_selector: subset: " in line]
    assert f"{tmp_path}/out\\x1b[31m\\n/pool_mig_10-" in line


def run_in_shell(tmp_path, settings, redirection, **more):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return run_command("sh", "-c", f'exec mig-selector select "$0" {redirection}', path, **more)


@pytest.mark.slow
@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "2>&- <&-"])
def test_a_stderr_that_is_closed_or_full_does_not_end_the_run(workplace, tmp_path, redirection):
    workplace.add("pool", make_rows(60), **SHAREGPT)
    done = run_in_shell(tmp_path, workplace.settings(), redirection)
    assert done.returncode == 0
    assert [line.startswith("/") for line in done.stdout.splitlines()] == [True]  # nothing of the log among it


@pytest.mark.parametrize(
    ("environment", "keys", "words"),
    [
        ({"WORLD_SIZE": "abc"}, {}, "WORLD_SIZE must be a whole number, 1 or more, got 'abc'"),
        ({"WORLD_SIZE": "0"}, {}, "WORLD_SIZE must be a whole number, 1 or more, got '0'"),
        ({"WORLD_SIZE": "2", "RANK": "x"}, {}, "RANK must be a whole number, 0 or more, got 'x'"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, {}, "RANK must be below WORLD_SIZE, 2, got 2"),
        ({"MIG_SELECTOR_CACHE": "~no_such_user/x"}, {"mig_cache_dir": None}, "mig_cache_dir: ~no_such_user/x would"),
        ({}, {"mig_cache_dir": "~no_such_user/x"}, "mig_cache_dir: ~no_such_user/x would be in a home folder"),
        ({}, {"mig_output_dir": "~no_such_user/x"}, "mig_output_dir: ~no_such_user/x would be in a home folder"),
        ({}, {"mig_labels": ".".join("a" * 2000)}, "a dotted path of at most 64 parts"),
        ({}, {"mig_score": ".".join("a" * 2000)}, "a dotted path of at most 64 parts"),
        ({}, {"mig_label_embeddings": None, "mig_embedding_model": "~no_such_user/x"}, "mig_embedding_model: "),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_wrong_is_one_message_and_no_traceback(workplace, tmp_path, environment, keys, words):
    workplace.add("pool", make_rows(60), **SHAREGPT)
    settings = {**workplace.settings(), **keys}
    settings = {key: value for key, value in settings.items() if value is not None}
    done = run_in_shell(tmp_path, settings, "", env={"HF_HUB_OFFLINE": "1", **environment})
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("mig-selector: error") == 1


@pytest.mark.parametrize("redirection", [">/dev/full", "| true"])
def test_a_stdout_that_cannot_be_written_is_one_message_with_the_folder(workplace, tmp_path, redirection):
    workplace.add("pool", make_rows(60), **SHAREGPT)
    settings = {**workplace.settings(), "mig_method": "random"}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    done = run_command("bash", "-c", f'set -o pipefail; mig-selector select "$0" {redirection}', path)
    assert done.returncode == 1
    assert "stdout cannot be written (" in done.stderr
    assert f"The selection is complete, in {workplace.data}/mig_selections/pool_random_10-" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_list_that_cannot_be_written_is_one_message(tmp_path):
    done = run_command("sh", "-c", 'exec mig-selector list --dataset-dir "$0" >/dev/full', tmp_path)
    assert (done.returncode, done.stderr) == (1, "mig-selector: error: stdout: No space left on device\n")


def test_a_name_with_line_ends_does_not_forge_a_message(workplace, tmp_path):
    name = "a\nmig-selector: error: forged\n[mig_selector] forged.jsonl"
    workplace.add("pool", make_rows(60), file_name=name, **SHAREGPT)
    (workplace.data / name).unlink()
    done = run_in_shell(tmp_path, workplace.settings(), "")
    assert done.returncode == 1
    assert "forged" in done.stderr
    assert not [line for line in done.stderr.splitlines()[1:] if line.startswith(("mig-selector", "[mig_selector] f"))]
