"""The selection methods by name, those of other packages, and plain functions.

To add a method, put a file into `methods` and a line into `METHODS`.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np

from mig_selector.arrays import Selection
from mig_selector.errors import ArgumentError
from mig_selector.selection.method import Candidates, Choice, Declaration, OnProgress, OwnScore
from mig_selector.settings import PREFIX, Key, keys_of_parameters


_METHODS_PACKAGE = "mig_selector.selection.methods"
METHODS = {
    "mig": f"{_METHODS_PACKAGE}.mig.mig",
    "random": f"{_METHODS_PACKAGE}.random.random_rows",
    "zip": f"{_METHODS_PACKAGE}.zip.least_redundant",
    "ifd": f"{_METHODS_PACKAGE}.top.ifd",
    "instag": f"{_METHODS_PACKAGE}.instag.instag",
    "deita": f"{_METHODS_PACKAGE}.deita.deita",
    "car": f"{_METHODS_PACKAGE}.car.car",
    "qdit": f"{_METHODS_PACKAGE}.qdit.qdit",
    "longest": f"{_METHODS_PACKAGE}.top.longest",
    "top_score": f"{_METHODS_PACKAGE}.top.top_score",
}
ENTRY_POINTS = "mig_selector.methods"
"""Entry-point group in which other packages name their methods."""


@dataclass(frozen=True)
class Method:
    """A selection method, found by its name."""

    name: str
    """As ``mig_method`` has it."""
    choose: Callable[..., Choice]
    declaration: Declaration

    @property
    def short_name(self) -> str:
        """The name that entries of dataset_info.json are made from."""
        return self.name.rpartition(".")[2]

    @property
    def is_built_in(self) -> bool:
        """Whether this package ships it; the code of other methods is part of the fingerprint."""
        return self.name in METHODS

    @functools.cached_property
    def keys(self) -> dict[str, Key]:
        """The keys that the method declares, by name.

        Raises:
            ArgumentError: A declared setting has no default.
        """
        group = f"Method {self.name}"
        try:
            found = keys_of_parameters(self.choose, group)
        except ValueError as error:
            raise ArgumentError(f"mig_method: {self.name}: {error}; give the parameter one.") from error
        own = self.declaration.score
        if isinstance(own, OwnScore):
            name = f"{PREFIX}{own.option}"
            found[name] = Key(name, str, own.default, own.setting, group)
        return found

    def options(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Take the arguments of the function from `values`, which has the values of keys by name without ``mig_``.

        Raises:
            ArgumentError: A parameter is not a key and has no default.
        """
        found = {}
        for name, parameter in inspect.signature(self.choose).parameters.items():
            if parameter.kind is not parameter.KEYWORD_ONLY or name == "on_progress":
                continue
            if name in values:
                found[name] = values[name]
            elif parameter.default is parameter.empty:
                raise ArgumentError(
                    f"mig_method: {self.name} asks for the setting {name!r}, but mig_{name} is not a key; give the "
                    "parameter a default, declare it as a Setting, or use the name of a key."
                )
        return found

    def identity(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return what decides the choice beside the pool: version, deciding options that have an effect, foreign code.

        An option that nothing declares counts as deciding.
        """
        unused = {
            name
            for (option, value), names in self.declaration.unused.items()
            if options[option] == value
            for name in names
        }
        idle = {key.option for key in self.keys.values() if not key.setting.decides}
        deciding: dict[str, Any] = {name: value for name, value in options.items() if name not in unused | idle}
        return {
            "method": self.name,
            "version": self.declaration.version,
            "options": deciding,
            "code": None if self.is_built_in else _source_code(self.choose),
        }

    def __call__(
        self, pool: Candidates, budget: int, options: Mapping[str, Any], on_progress: OnProgress
    ) -> Selection:
        """Choose at most `budget` rows.

        Raises:
            ArgumentError: A custom method chose a row twice, or one that does not exist, or too many; or it ended the
                program.
        """
        more = {"on_progress": on_progress} if "on_progress" in inspect.signature(self.choose).parameters else {}
        try:
            choice = self.choose(pool, budget, **options, **more)
        except SystemExit as error:
            raise ArgumentError(
                f"mig_method: {self.name} ended the program ({error!r}) instead of choosing."
            ) from error
        selection = choice if isinstance(choice, Selection) else _without_gains(choice)
        if not self.is_built_in:
            self._check_choice(selection.rows, len(pool), budget)
        return selection

    def _check_choice(self, rows: Any, num_rows: int, budget: int) -> None:
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


def _source_code(function: Callable[..., Any]) -> str:
    """Return the file of a function; of one that was typed into a notebook the function alone.

    Raises:
        ArgumentError: Python does not keep its source code, so nothing could tell whether it changed.
    """
    try:
        file = Path(inspect.getfile(function))
        return file.read_text(encoding="utf-8") if file.is_file() else inspect.getsource(function)
    except (OSError, TypeError) as error:
        raise ArgumentError(
            f"mig_method: the source code of {function!r} cannot be found, so a change to it could not be noticed; "
            "define it in a file or a notebook cell."
        ) from error


def load_method(name: str | Callable[..., Any]) -> Method:
    """Find a method: one of `METHODS`, an entry point of an installed package, a dotted path, or a function.

    Raises:
        ArgumentError: There is no such method, or it does not say what it needs.
    """
    if callable(name):
        return Method(f"{name.__module__}.{name.__qualname__}", name, _declaration_of(name, repr(name)))
    path = METHODS.get(name) or _entry_point(name) or name
    module, _, attribute = path.rpartition(".")
    if not module:
        nearest = difflib.get_close_matches(name, METHODS, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(METHODS)}."
        raise ArgumentError(
            f"mig_method: {name!r} is not a method; {hint} Name a custom one as package.module.function."
        )
    try:
        choose = getattr(importlib.import_module(module), attribute, None)
    except Exception as error:  # the module of a user may raise anything
        raise ArgumentError(
            f"mig_method: {name!r} cannot be imported ({type(error).__name__}: {error}); is {module!r} installed, or "
            "its folder on PYTHONPATH?"
        ) from error
    if choose is None:
        raise ArgumentError(f"mig_method: {name!r}: {module} has no {attribute!r}; check the name of the function.")
    return Method(name, choose, _declaration_of(choose, repr(name)))


def _declaration_of(choose: Any, shown: str) -> Declaration:
    declaration = getattr(choose, "declaration", None)
    if not isinstance(declaration, Declaration):
        raise ArgumentError(
            f"mig_method: {shown} does not say what it needs; put @method(needs=...) of mig_selector above the "
            "function."
        )
    return declaration


def _entry_point(name: str) -> str | None:
    for point in entry_points(group=ENTRY_POINTS, name=name):
        return point.value.replace(":", ".")
    return None


@functools.cache
def keys_of_methods() -> dict[str, Key]:
    """Return the keys that the methods of this package declare, by name; one that several share is the same in all.

    Raises:
        ValueError: Two methods declare one key differently.
    """
    found: dict[str, Key] = {}
    for name in METHODS:
        for key in load_method(name).keys.values():
            known = found.get(key.name)
            if known is None:
                found[key.name] = key
            elif (known.kind, known.default, known.setting) != (key.kind, key.default, key.setting):
                raise ValueError(f"{key.name} is declared differently by two methods, {known.group} and {key.group}")
            else:
                found[key.name] = replace(known, group="Several methods")
    return found
