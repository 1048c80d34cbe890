"""How many of the chosen rows the host trains on: ``max_samples`` and ``mix_strategy`` may change their number."""

from __future__ import annotations

from collections.abc import Mapping

from mig_selector.integration.config import HostArguments


def describe_changed_budget(host: HostArguments, rows: Mapping[str, int], *, others: bool) -> list[str]:
    """Say what the host's keys make of the budget; nothing where it trains on every chosen row once.

    Args:
        host: The host's keys.
        rows: Chosen rows by the name of their entry, in the order in which the host reads the entries.
        others: Whether the host also trains on datasets that are no part of the pool.

    Returns:
        Lines for people.
    """
    lines, chosen = [], sum(rows.values())
    limit = host.max_samples
    sizes = {name: size if limit is None else min(size, limit) for name, size in rows.items()}
    cut = [f"{sizes[name]:,} of {size:,} of {name}" for name, size in rows.items() if sizes[name] < size]
    if cut:
        lines.append(
            f"max_samples: {limit} is a limit for each dataset: training sees {sum(sizes.values()):,} of the "
            f"{chosen:,} chosen rows ({', '.join(cut)})"
        )
    if not host.mix_strategy.startswith("interleave") or len(sizes) + others < 2:
        return lines
    if others:
        lines.append(
            f"mix_strategy: {host.mix_strategy} with datasets that are no part of the pool: how many of the "
            f"{chosen:,} chosen rows training sees, and how often, depends on their sizes; "
            "mix_strategy: concat takes each once"
        )
    elif (mixed := _interleaved(host, list(sizes.values()))) != sum(sizes.values()):
        what = "some of them more than once" if mixed > chosen else "the others never"
        lines.append(
            f"mix_strategy: {host.mix_strategy} makes {mixed:,} rows for training out of the {chosen:,} chosen ones, "
            f"{what}; mix_strategy: concat takes each once"
        )
    return lines


def _interleaved(host: HostArguments, sizes: list[int]) -> int:
    """Return how many rows the host gets by interleaving datasets of some sizes."""
    if host.mix_strategy == "interleave_once":
        return sum(sizes)
    if len(host.interleave_shares) != len(sizes):  # without shares, or with shares that the host refuses
        return len(sizes) * (min(sizes) if host.mix_strategy == "interleave_under" else max(sizes))
    # Which dataset is exhausted first depends on random numbers, so `datasets` itself is asked.
    from datasets import Dataset, interleave_datasets

    mixed = interleave_datasets(
        [Dataset.from_dict({"row": range(size)}) for size in sizes],
        probabilities=list(host.interleave_shares),
        seed=host.seed,
        stopping_strategy="first_exhausted" if host.mix_strategy == "interleave_under" else "all_exhausted",
    )
    return len(mixed)
