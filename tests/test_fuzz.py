"""The fuzzer of the reader: a short run finds nothing, and what is wrong on purpose is found."""

import importlib
import json
import multiprocessing
import os
import signal
import time
from random import Random

import pytest
from support import ROOT, run_command

from mig_selector.pool.formats import json_array, json_lines, row_source
from mig_selector.pool.index import file_index, judge


pytestmark = pytest.mark.slow

SCRIPTS = ROOT / "scripts"


@pytest.fixture(scope="module")
def fuzz():
    """The script as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield importlib.import_module("faults.fuzz")


def test_a_short_run_finds_nothing(tmp_path):
    words = ["--inputs", 500, "--seed", 1, "--keep", tmp_path / "keep"]
    done = run_command("python", SCRIPTS / "faults" / "fuzz.py", *words)
    assert done.returncode == 0, done.stdout[-4_000:] + done.stderr[-4_000:]
    assert done.stdout.startswith("500 inputs in ")
    assert ", 0 findings: arrow, " in done.stdout
    assert done.stdout.count("\n") == 1
    assert not (tmp_path / "keep").exists()


def test_the_same_number_gives_the_same_file_and_all_formats_come(fuzz):
    made = [fuzz.make_input(Random(f"3/{number}")) for number in range(60)]
    again = [fuzz.make_input(Random(f"3/{number}")) for number in range(60)]
    assert made == again
    assert {each.kind for each in made} == {"jsonl", "json", "csv", "parquet", "arrow"}
    assert len({each.content for each in made}) == 60


def findings(fuzz, folder, count=150):
    """Numbers and texts of what is found among the first inputs, in this process."""
    found = [(number, *fuzz._try(0, number, folder)) for number in range(count)]
    return [(number, wrong) for number, _, wrong in found if wrong]


@pytest.fixture
def here(fuzz, monkeypatch):
    """Have inputs read in this process: the clock is heard, and the sizes that each sets for itself are put back."""
    monkeypatch.setattr(json_lines, "_BLOCK_BYTES", json_lines._BLOCK_BYTES)
    monkeypatch.setattr(json_array, "_BLOCK_BYTES", json_array._BLOCK_BYTES)
    monkeypatch.setattr(row_source, "BATCH_BYTES", row_source.BATCH_BYTES)
    before = signal.signal(signal.SIGALRM, fuzz._time_out)
    yield
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("here")
class TestFaultsOnPurpose:
    """A reader that is wrong in some way is found out."""

    def test_a_reader_without_fault_is_not(self, fuzz, tmp_path):
        assert findings(fuzz, tmp_path) == []
        assert [path.name for path in tmp_path.iterdir()] == ["cache"]

    def test_a_wrong_score_is_found(self, fuzz, tmp_path, monkeypatch):
        monkeypatch.setattr(judge, "_sums", lambda numbers: numbers.values[numbers.starts])
        assert any("the naive reader" in wrong for _, wrong in findings(fuzz, tmp_path))

    def test_a_bad_row_that_is_kept_is_found(self, fuzz, tmp_path, monkeypatch):
        monkeypatch.setattr(judge.RowJudge, "_number_fault", lambda self, path, value, lowest: None)
        assert findings(fuzz, tmp_path)

    def test_rows_that_do_not_add_up_are_found(self, fuzz, tmp_path, monkeypatch):
        monkeypatch.setattr(file_index.Tally, "add_unreadable", lambda tally, line, reason: None)
        assert any("do not add up" in wrong for _, wrong in findings(fuzz, tmp_path))

    def test_a_wrong_line_is_found(self, fuzz, tmp_path, monkeypatch):
        add = file_index.Tally.add_unreadable
        monkeypatch.setattr(
            file_index.Tally, "add_unreadable", lambda tally, line, reason: add(tally, line + 1, reason)
        )
        assert any("bad lines are" in wrong for _, wrong in findings(fuzz, tmp_path))

    def test_an_error_that_is_none_of_ours_is_found_and_its_file_stays(self, fuzz, tmp_path, monkeypatch):
        monkeypatch.setattr(fuzz, "read_pool", lambda *arguments: json.loads("{"))
        [(number, wrong), *_] = findings(fuzz, tmp_path, 10)
        assert "JSONDecodeError" in wrong
        assert list(tmp_path.glob(f"{number}.*"))

    def test_a_file_that_takes_too_long_is_found(self, fuzz, tmp_path, monkeypatch):
        monkeypatch.setattr(fuzz, "_SECONDS_PER_INPUT", 0.2)
        monkeypatch.setattr(fuzz, "open_sources", lambda entry: time.sleep(60))
        [(_, wrong)] = findings(fuzz, tmp_path, 1)
        assert "TookTooLong" in wrong


def test_a_process_that_crashes_is_a_finding_and_another_goes_on(fuzz, tmp_path):
    reports = fuzz.fuzz(0, range(400), 1, tmp_path)
    first = [next(reports) for _ in range(3)]
    [child] = multiprocessing.active_children()
    os.kill(child.pid, signal.SIGSEGV)
    everything = [*first, *reports]
    assert sorted(number for number, *_ in everything) == list(range(400))
    assert [(outcome, wrong) for _, outcome, wrong in everything if wrong] == [("finding", "exit code -11")]
