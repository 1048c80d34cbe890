"""Programs of models are contained: they pass or fail, and leave nothing."""

import socket
import time

import pytest

from mig_selector.evaluation.sandbox import run_program, run_programs


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("assert 1 + 1 == 3, 'sum'", "failed: AssertionError: sum"),
        ("def broken(:", "failed: SyntaxError"),
        ("memory = bytearray(4 << 30)", "failed: MemoryError"),
        ("import os\nwhile True:\n    os.fork()", "failed: TypeError"),
        ("import os\nos.system('true')", "failed: TypeError"),
        ("import posix\nposix.execv('/bin/true', ['true'])", "failed: PermissionError"),
        ("import sys\nsys.exit(0)", "failed: SystemExit"),
        ("import os\nos._exit(0)", "died (exit code 0)"),
        ("open('large', 'wb').write(bytes(4 << 20))", "failed: OSError: [Errno 27]"),
        ("print('11 passed')\nraise ValueError('said so')", "failed: ValueError: said so"),
    ],
)
def test_a_program_that_misbehaves_fails(program, reason):
    outcome = run_program(program)
    assert not outcome.has_passed
    assert outcome.reason.startswith(reason)


@pytest.mark.slow
@pytest.mark.parametrize("program", ["while True: pass", "import time\ntime.sleep(60)"])
def test_a_program_without_end_is_stopped(program):
    started = time.monotonic()
    assert run_program(program, seconds=1).reason == "timed out"
    assert time.monotonic() - started < 15


def test_a_program_that_is_right_passes_and_has_a_folder_of_its_own():
    outcomes = run_programs(["open('mine', 'w').write('x')\nassert open('mine').read() == 'x'", "x = 1"])
    assert [outcome.reason for outcome in outcomes] == ["passed", "passed"]


def test_where_the_system_allows_it_nothing_outside_is_reached(tmp_path):
    target = tmp_path / "target"
    target.write_text("untouched")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        outcome = run_program(f"import socket\nsocket.create_connection({address!r}, 2)")
        assert outcome.has_passed is not outcome.is_offline
    outcome = run_program(f"open({str(target)!r}, 'w').write('changed')")
    assert outcome.has_passed is not outcome.is_confined
    assert target.read_text() == ("untouched" if outcome.is_confined else "changed")
