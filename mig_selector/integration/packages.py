"""The packages that this one needs, directly or not: which are installed, and which clash."""

from __future__ import annotations

from collections import defaultdict
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name


def find_clashes(root: str) -> list[str]:
    """Find requirements that the installed packages do not fulfil.

    Args:
        root: The package to begin with.

    Returns:
        For each package that is missing or has a wrong version: who needs which, and the command that fixes it.
    """
    wanted: dict[str, list[tuple[str, SpecifierSet]]] = defaultdict(list)
    todo, seen = [(root, "")], {(root, "")}
    while todo:
        name, extra = todo.pop()
        for requirement in _requirements(name, extra):
            needed = canonicalize_name(requirement.name)
            wanted[needed].append((name, requirement.specifier))
            new = {(needed, each) for each in ("", *requirement.extras)} - seen
            todo += sorted(new)
            seen |= new
    clashes = []
    for name, needs in sorted(wanted.items()):
        found = _version(name)
        unfulfilled = [(by, allowed) for by, allowed in needs if found is None or not allowed.contains(found, True)]
        if unfulfilled:
            together = SpecifierSet(",".join(dict.fromkeys(str(allowed) for _, allowed in needs if str(allowed))))
            by = " and ".join(dict.fromkeys(f"{by} needs {name}{allowed}" for by, allowed in unfulfilled))
            clashes.append(f"{name} {found or 'is not installed'}, but {by}: pip install '{name}{together}'")
    return clashes


def _requirements(name: str, extra: str) -> list[Requirement]:
    """Return what a package needs here, beside what it needs with its other extras."""
    try:
        found = [Requirement(line) for line in requires(name) or []]
    except PackageNotFoundError:
        return []
    return [each for each in found if each.marker is None or each.marker.evaluate({"extra": extra})]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
