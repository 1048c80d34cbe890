"""Names of new entries and files, made from the names of pools, which may hold any text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mig_selector.arguments import BUDGET_PLACEHOLDER, NAME_PATTERN
from mig_selector.store.hashing import fingerprint_of


_LONGEST = 128
"""Characters that a name may have."""
_HASH = 6
"""Characters of a hash in a name."""
_BUDGET = "99999999"
"""Stands for a budget that is not known yet, and takes the characters that it may need."""
_FOREIGN = re.compile(r"[^A-Za-z0-9_.+-]")


def selection_name(pools: Sequence[str], *parts: str) -> str:
    """Return the default name of a selection: the pools joined by ``+``, then the parts, with ``_`` between them.

    A name that would be too long, or hold characters that are not allowed, is made of the allowed characters of the
    first pool's name and a hash of all names. A hash that tells settings apart must still fit behind it.

    Args:
        pools: Names of the pools, as in dataset_info.json.
        parts: Method and budget.
    """
    plain, tail = "+".join(pools), "".join(f"_{part}" for part in parts)
    longest = _LONGEST - _HASH - 1
    if NAME_PATTERN.fullmatch(plain + tail) and len(plain + tail) <= longest:
        return plain + tail
    tail = _FOREIGN.sub("", tail)[-longest // 2 :]  # the name of a custom method is an identifier of any script
    return _made_up(pools[0], [*pools, *parts], longest - len(tail)) + tail


def comparison_name(stem: str | None, pools: Sequence[str], method: str) -> str:
    """Return the name of what a method of a comparison chose, with a placeholder for the budget.

    Args:
        stem: As configured (``mig_dataset_name``), with or without the placeholder; made of the pools if None.
        pools: Names of the pools, as in dataset_info.json.
        method: The short name of the method.
    """
    if stem is None:
        return selection_name(pools, "compared", method, _BUDGET).replace(_BUDGET, BUDGET_PLACEHOLDER)
    stem = stem.replace(BUDGET_PLACEHOLDER, _BUDGET)
    return selection_name([stem], method, *([] if _BUDGET in stem else [_BUDGET])).replace(_BUDGET, BUDGET_PLACEHOLDER)


def with_hash(name: str, fingerprint: str) -> str:
    """Return a default name for settings that differ from those of the entry that has the name."""
    return f"{name}-{fingerprint[:_HASH]}"


def pool_part(stem: str, pool: str) -> str:
    """Return ``<stem>__<pool>``: the name of what belongs to one of several pools.

    Where that is too long, or holds characters that are not allowed, the pool's name (and, if need be, the stem) is
    shortened and a hash is added.
    """
    name = f"{stem}__{pool}"
    if NAME_PATTERN.fullmatch(name):
        return name
    if len(stem) + 2 + _HASH <= _LONGEST:
        return f"{stem}__{_made_up(pool, [pool], _LONGEST - len(stem) - 2)}"
    return f"{_made_up(stem, [stem], _LONGEST // 2)}__{_made_up(pool, [pool], _LONGEST // 2 - 2)}"


def _made_up(name: str, hashed: Sequence[str], longest: int) -> str:
    """Return the allowed characters of a name, cut to size, and a hash."""
    digest = fingerprint_of({"names": list(hashed)})[:_HASH]
    kept = _FOREIGN.sub("", name)[: max(longest - _HASH - 1, 0)].rstrip("-")
    return f"{kept}-{digest}" if kept else digest
