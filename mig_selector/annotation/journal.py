"""Answers on disk as they come, from which a run that was killed goes on: JSON Lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mig_selector.store.folders import is_believed


class Journal:
    """A file with a line for each answer: what it answers, and the answer, which must be what JSON can hold."""

    def __init__(self, path: Path) -> None:
        """Name the file; it need not exist."""
        self._path = path

    def read(self) -> dict[str, Any]:
        """Return the answers by what they answer; none of a file that others could have written to."""
        answers: dict[str, Any] = {}
        if not self._path.exists() or not is_believed(self._path):
            return answers
        with self._path.open("rb") as lines:
            for line in lines:
                try:
                    question, answer = json.loads(line)
                except ValueError:  # a kill has torn the line; the first one is empty
                    continue
                answers[question] = answer
        return answers

    def add(self, question: str, answer: Any) -> None:
        """Add an answer; it survives a kill of this process."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # The line ends first: then what a kill has torn ruins no line but its own.
        with self._path.open("ab") as stream:
            stream.write(b"\n" + json.dumps([question, answer]).encode("ascii"))
