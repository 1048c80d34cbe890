"""What the other ranks report when one of four processes fails, dies or never starts; see scenarios.py."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


pytestmark = pytest.mark.distributed

SCENARIOS = Path(__file__).with_name("scenarios.py")
GONE = "exited unexpectedly, possibly killed for lack of memory; see its own output and the system log"
MISSING = "did not start selecting within 4 seconds; is mig_selector installed on"
LOST = "the connection between the ranks was lost: torchrun or rank 0, whichever hosted it, has exited."


@pytest.fixture(scope="module")
def play(tmp_path_factory):
    """How each rank of each scenario ended: exit code, seconds, what it wrote."""
    folder = tmp_path_factory.mktemp("ranks")
    done = subprocess.run(
        [sys.executable, SCENARIOS, folder], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr

    def ends_of(name):
        ends = json.loads((folder / f"{name}.json").read_text())
        return {int(rank): end for rank, end in ends.items()}

    ends_of.folder = folder
    return ends_of


def messages(ends):
    """Return the error lines of the ranks that were not killed."""
    lines = [end["text"].splitlines() for end in ends.values() if end["code"] != -9]
    return [[line.removeprefix("[mig_selector] ") for line in some if "error: " in line] for some in lines]


@pytest.mark.parametrize("name", ["agreement", "local_ranks_not_given", "two_runs", "a_second_attempt"])
def test_ranks_agree(play, name):
    ends = play(name)
    assert {rank: end["code"] for rank, end in ends.items()} == {0: 0, 1: 0, 2: 0, 3: 0}, ends


@pytest.mark.parametrize(
    ("name", "codes", "message"),
    [
        ("error_on_rank_0", [1, 1, 1, 1], "pool.jsonl:3: is not valid JSON"),
        ("error_elsewhere", [1, 1, 1, 1], "no space left (rank 2 on "),
        ("error_while_another_rank_is_blocked", [1, 1, 1, 1], "no space left (rank 2 on "),
        ("killed_while_others_wait_and_work", [1, 1, 1, -9], GONE),
        ("killed_before_a_collective", [1, -9, 1, 1], GONE),
        ("sigterm_after_a_kill", [1, 1, -9, 1], GONE),
        ("a_machine_goes_down", [1, 1, -9, -9], "node-b with rank 2 and 1 more has not responded for 3 seconds"),
        ("lost_connection", [1, 1, 1, 1], LOST),
        ("a_rank_never_starts", [1, 1, 1], f"rank 3 of 4 {MISSING} every node"),
        ("rank_0_never_starts", [1, 1, 1], f"rank 0 {MISSING} its node"),
    ],
)
def test_all_ranks_end_with_the_same_message(play, name, codes, message):
    ends = play(name)
    assert [end["code"] for end in ends.values()] == codes, ends
    assert max(end["seconds"] for end in ends.values()) < 30
    said = messages(ends)
    assert {len(lines) for lines in said} == {1}, ends
    assert len({line for lines in said for line in lines}) == 1
    assert message in said[0][0]
    assert "Traceback" not in "".join(end["text"] for end in ends.values())


def test_a_bug_is_reported_on_all_ranks_and_its_traceback_on_one(play):
    ends = play("bug_elsewhere")
    assert [end["code"] for end in ends.values()] == [1, 3, 1, 1]
    assert ends[1]["text"] == "ZeroDivisionError: integer division or modulo by zero\n"
    assert ends[0]["text"].startswith("error: ZeroDivisionError: integer division or modulo by zero (rank 1 on ")


def test_sigterm_cleans_up_and_then_ends_the_process(play):
    ends = play("sigterm_to_all")
    assert [end["code"] for end in ends.values()] == [-15] * 4
    assert {end["text"] for end in ends.values()} == {"[mig_selector] stopped (SIGTERM)\n"}
    assert len(list(play.folder.glob("*/*.cleaned"))) == 4
