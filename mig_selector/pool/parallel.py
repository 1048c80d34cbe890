"""Several processes pass over the parts of one large file."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Generator, Iterator

from mig_selector.pool.extract import Extract, extract_rows
from mig_selector.pool.fields import RowJudge
from mig_selector.pool.rows import OnBytes, RowSource, Span


_SPAN_BYTES = 32 << 20
"""Size of a part; a process needs a few times as much memory."""
_PARALLEL_BYTES = 96 << 20
"""Files below this are read before other processes have started."""
_MAX_PROCESSES = 16


def extract_parts(
    source: RowSource, judge: RowJudge, on_bytes: OnBytes, *, stop_at_unreadable: bool
) -> Iterator[Extract]:
    """Yield the extracts of a file's parts, in their order.

    Args:
        source: The file.
        judge: What a row must have.
        on_bytes: Called with the number of bytes read since the last call.
        stop_at_unreadable: Whether a part ends at its first unreadable row.
    """
    spans = source.spans(_SPAN_BYTES)
    processes = _count_processes(source, spans)
    if processes == 1:
        for span in spans:
            yield extract_rows(source, span, judge, on_bytes, stop_at_unreadable=stop_at_unreadable)
        return
    with contextlib.closing(_in_processes(processes, source, spans, judge, stop_at_unreadable)) as parts:
        for span, part in zip(spans, parts, strict=True):
            yield part
            on_bytes(span.size)


def _count_processes(source: RowSource, spans: list[Span]) -> int:
    if source.size < _PARALLEL_BYTES:
        return 1
    from joblib import cpu_count

    return min(int(cpu_count()), len(spans), _MAX_PROCESSES)


def _in_processes(
    processes: int, source: RowSource, spans: list[Span], judge: RowJudge, stop_at_unreadable: bool
) -> Generator[Extract, None, None]:
    """Pass over the parts in other processes, which end with the generator."""
    from joblib import Parallel, delayed
    from joblib.externals.loky import get_reusable_executor

    # loky starts fresh interpreters that do not run the main script again: safe beside CUDA, threads and torchrun.
    parts = Parallel(n_jobs=processes, backend="loky", return_as="generator")(
        delayed(extract_rows)(source, span, judge, _ignore, stop_at_unreadable=stop_at_unreadable) for span in spans
    )
    try:
        for part in parts:  # noqa: UP028 "yield from" would close `parts` before the block below
            yield part
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that parts are given up is no news when a bad row ends the reading
            parts.close()
        get_reusable_executor().shutdown(wait=True, kill_workers=True)


def _ignore(num_bytes: int) -> None:
    """Report nothing: the process that asked counts whole parts."""
