"""How signals end a block, and then the process."""

import signal
import subprocess
import sys

import pytest


PROGRAM = """
import os, signal, sys
from mig_selector.console import show_log
from mig_selector.ranks.signals import StopSignals
show_log(is_main=True)
signal.signal(signal.SIGINT, {handler})
signal.signal(signal.SIGTERM, {on_sigterm})
try:
    with StopSignals() as signals:
        {body}
        print("on", flush=True)
except KeyboardInterrupt as error:
    print("interrupted", repr(error.__cause__))
print("after")
"""
SWALLOWED = """
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except BaseException:
            {then}
"""


def run(body, handler="signal.default_int_handler", on_sigterm="signal.SIG_DFL"):
    words = [sys.executable, "-c", PROGRAM.format(body=body, handler=handler, on_sigterm=on_sigterm)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.split("\n")[:-1], done.stderr


def kill(name):
    return f"os.kill(os.getpid(), signal.{name})"


def test_sigterm_ends_the_process_after_the_block_has_cleaned_up():
    body = f"try:\n            {kill('SIGTERM')}\n        finally:\n            print('cleaned', flush=True)"
    assert run(body) == (-signal.SIGTERM, ["cleaned"], "[mig_selector] stopped (SIGTERM)\n")


def test_sigterm_while_signals_are_held_takes_effect_afterwards():
    assert run(f"signals.hold(); {kill('SIGTERM')}") == (-signal.SIGTERM, ["on"], "")


HANDLER = "lambda *_: print('handled', flush=True)"
AS_THE_BLOCK_ENDS = """
        def send(frame, event, argument):
            if event == "call" and frame.f_code is StopSignals.__exit__.__code__:
                sys.setprofile(None)
                os.kill(os.getpid(), signal.{name})
        sys.setprofile(send)
"""


def test_a_signal_that_arrives_as_the_block_ends_takes_effect_and_the_handlers_are_restored():
    assert run(AS_THE_BLOCK_ENDS.format(name="SIGTERM")) == (-signal.SIGTERM, ["on"], "")
    assert run(AS_THE_BLOCK_ENDS.format(name="SIGINT")) == (0, ["on", "interrupted None", "after"], "")
    assert run(AS_THE_BLOCK_ENDS.format(name="SIGTERM"), on_sigterm=HANDLER)[:2] == (0, ["on", "handled", "after"])


def test_a_handler_of_the_program_hears_of_sigterm_also_where_an_error_ends_the_block():
    code, lines, text = run(f"signals.hold(); {kill('SIGTERM')}; raise ValueError('full')", on_sigterm=HANDLER)
    assert (code, lines) == (1, ["handled"])
    assert text.endswith("ValueError: full\n")
    code, lines, text = run(f"signals.hold(); {kill('SIGTERM')}; raise ValueError('full')")
    assert (code, lines) == (1, [])  # without a handler the error and its message end the process
    assert text.endswith("ValueError: full\n")


@pytest.mark.parametrize(
    ("then", "cause"), [("pass", "None"), ("raise AttributeError('half imported')", "AttributeError('half imported')")]
)
def test_an_interrupt_that_a_library_swallows_is_raised_at_the_end(then, cause):
    code, lines, _ = run(SWALLOWED.format(then=then))
    assert code == 0
    assert lines[-2:] == [f"interrupted {cause}", "after"]


@pytest.mark.parametrize("then", ["pass", "raise AttributeError('half imported')"])
def test_sigterm_that_a_library_swallows_ends_the_process(then):
    code, _, text = run(SWALLOWED.format(then=then).replace("SIGINT", "SIGTERM"))
    assert (code, text) == (-signal.SIGTERM, "[mig_selector] stopped (SIGTERM)\n")


def test_an_interrupt_is_raised_where_it_arrives():
    assert run(kill("SIGINT")) == (0, ["interrupted None", "after"], "")


@pytest.mark.parametrize(
    ("handler", "lines"), [("signal.SIG_IGN", []), ("lambda *_: print('handled', flush=True)", ["handled"])]
)
def test_a_program_that_handles_interrupts_itself_keeps_doing_so(handler, lines):
    assert run(kill("SIGINT"), handler) == (0, [*lines, "on", "after"], "")
