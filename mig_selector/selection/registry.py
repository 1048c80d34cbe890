"""The selection methods by name, and those of other packages.

A further method is a file in `methods` and a line in `METHODS`.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np

from mig_selector.arrays import Selection
from mig_selector.errors import ArgumentError
from mig_selector.selection.method import Candidates, Choice, Declaration, OnProgress


_HERE = "mig_selector.selection.methods"
METHODS = {
    "mig": f"{_HERE}.mig.mig",
    "random": f"{_HERE}.random.random_rows",
    "zip": f"{_HERE}.zip.least_redundant",
    "ifd": f"{_HERE}.top.ifd",
    "instag": f"{_HERE}.instag.instag",
    "deita": f"{_HERE}.deita.deita",
    "car": f"{_HERE}.car.car",
    "qdit": f"{_HERE}.qdit.qdit",
    "longest": f"{_HERE}.top.longest",
    "top_score": f"{_HERE}.top.top_score",
}
ENTRY_POINTS = "mig_selector.methods"
"""Group in which other packages name theirs."""


@dataclass(frozen=True)
class Method:
    """A selection method, found by its name."""

    name: str
    """As ``mig_method`` has it."""
    choose: Any
    """The function."""
    declaration: Declaration

    @property
    def short_name(self) -> str:
        """What entries of dataset_info.json are called after."""
        return self.name.rpartition(".")[2]

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """The settings that the function takes, by name: those of the keys without ``mig_``."""
        found = inspect.signature(self.choose).parameters
        return {name: item for name, item in found.items() if item.kind is item.KEYWORD_ONLY and name != "on_progress"}

    def settings(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Take what the function asks for out of `values`, the keys without ``mig_``.

        Raises:
            ArgumentError: It asks for what is no key, and has no default for it.
        """
        for name, item in self.parameters.items():
            if name not in values and item.default is item.empty:
                raise ArgumentError(
                    f"mig_method: {self.name} asks for the setting {name!r}, but mig_{name} is no key; give the "
                    "parameter a default, or the name of a key."
                )
        return {name: values[name] for name in self.parameters if name in values}

    def facts(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return what decides the choice beside the pool: the settings that have an effect, and the code of others."""
        unused = {
            name for (key, value), names in self.declaration.unused.items() if settings[key] == value for name in names
        }
        facts: dict[str, Any] = {key: value for key, value in settings.items() if key not in unused}
        if self.name not in METHODS:
            facts["code"] = Path(inspect.getfile(self.choose)).read_text(encoding="utf-8")
        return facts

    def __call__(
        self, pool: Candidates, budget: int, settings: Mapping[str, Any], on_progress: OnProgress
    ) -> Selection:
        """Choose at most `budget` rows.

        Raises:
            ArgumentError: A method of another package chose a row twice, or one that is not there, or too many; or it
                ended the program.
        """
        more = {"on_progress": on_progress} if "on_progress" in inspect.signature(self.choose).parameters else {}
        try:
            choice: Choice = self.choose(pool, budget, **settings, **more)
        except SystemExit as error:
            raise ArgumentError(
                f"mig_method: {self.name} ended the program ({error!r}) instead of choosing."
            ) from error
        selection = choice if isinstance(choice, Selection) else _without_gains(choice)
        if self.name not in METHODS:
            self._check(selection.rows, len(pool), budget)
        return selection

    def _check(self, rows: Any, num_rows: int, budget: int) -> None:
        if rows.ndim != 1 or rows.dtype.kind not in "iu" or len(rows) > budget:
            fault = f"chose {rows.dtype} {rows.shape}, expected at most {budget} row numbers"
        elif len(rows) and not 0 <= rows.min() <= rows.max() < num_rows:
            fault = f"chose row {rows[(rows < 0) | (rows >= num_rows)][0]} of {num_rows}"
        elif len(np.unique(rows)) < len(rows):
            values, counts = np.unique(rows, return_counts=True)
            fault = f"chose row {values[counts > 1][0]} twice"
        else:
            return
        raise ArgumentError(f"mig_method: {self.name} {fault}.")


def _without_gains(rows: Any) -> Selection:
    chosen = np.asarray(rows)
    chosen = chosen.astype(np.int64) if chosen.dtype.kind in "iu" or not chosen.size else chosen
    return Selection(chosen, np.full(chosen.shape, np.nan))


def load_method(name: str) -> Method:
    """Find a method: one of `METHODS`, one that an installed package names as an entry point, or a dotted path.

    Raises:
        ArgumentError: There is none of that name, or it says nothing of what it needs.
    """
    path = METHODS.get(name) or _entry_point(name) or name
    module, _, attribute = path.rpartition(".")
    if not module:
        nearest = difflib.get_close_matches(name, METHODS, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]}" if nearest else f"known: {', '.join(METHODS)}"
        raise ArgumentError(
            f"mig_method: {name!r} is no method; {hint}. One of your own is named as package.module.function."
        )
    try:
        choose = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # the module of a user may raise anything
        raise ArgumentError(
            f"mig_method: {name!r} cannot be imported ({type(error).__name__}: {error}); is {module!r} installed, or "
            "its folder on PYTHONPATH?"
        ) from error
    declaration = getattr(choose, "declaration", None)
    if not isinstance(declaration, Declaration):
        raise ArgumentError(
            f"mig_method: {name!r} does not say what it needs; put @method(needs=...) of "
            "mig_selector.selection.method above the function."
        )
    return Method(name, choose, declaration)


def _entry_point(name: str) -> str | None:
    for point in entry_points(group=ENTRY_POINTS, name=name):
        return point.value.replace(":", ".")
    return None
