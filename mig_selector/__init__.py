"""Choose the part of an instruction pool worth training on, and hand it to LLaMA-Factory.

Layers (a module imports only from layers to its right; neighbours do not import each other)::

    cli, hook, notebook > study > pipeline, reference > arguments > integration, report, evaluation > annotation
        > pool, embedding, graph, selection > store, ranks, console > settings, arrays > errors

`_autoload` is above them all: Python imports it at every start, and it imports nothing.

Importing this package imports neither torch nor numba: the public names are loaded when first used.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mig_selector.arguments import MigArguments
    from mig_selector.arrays import LabelledPool, Propagation, RowLabels, Selection
    from mig_selector.errors import ArgumentError, MigSelectorError, PoolError
    from mig_selector.notebook import Subset, select
    from mig_selector.pipeline.comparison import compare_methods
    from mig_selector.pipeline.deliver import Outcome
    from mig_selector.pipeline.recipe import run_selection
    from mig_selector.selection.greedy import select_rows
    from mig_selector.selection.method import Candidates, RowEmbedding, Seed, best_first, method
    from mig_selector.selection.objective import Objective
    from mig_selector.settings import Range, Setting

    __version__: str

__all__ = [
    "ArgumentError",
    "Candidates",
    "LabelledPool",
    "MigArguments",
    "MigSelectorError",
    "Objective",
    "Outcome",
    "PoolError",
    "Propagation",
    "Range",
    "RowEmbedding",
    "RowLabels",
    "Seed",
    "Selection",
    "Setting",
    "Subset",
    "__version__",
    "best_first",
    "compare_methods",
    "method",
    "run_selection",
    "select",
    "select_rows",
]

_HOMES = {
    "ArgumentError": "mig_selector.errors",
    "Candidates": "mig_selector.selection.method",
    "LabelledPool": "mig_selector.arrays",
    "MigArguments": "mig_selector.arguments",
    "MigSelectorError": "mig_selector.errors",
    "Objective": "mig_selector.selection.objective",
    "Outcome": "mig_selector.pipeline.deliver",
    "PoolError": "mig_selector.errors",
    "Propagation": "mig_selector.arrays",
    "Range": "mig_selector.settings",
    "RowEmbedding": "mig_selector.selection.method",
    "RowLabels": "mig_selector.arrays",
    "Seed": "mig_selector.selection.method",
    "Selection": "mig_selector.arrays",
    "Setting": "mig_selector.settings",
    "Subset": "mig_selector.notebook",
    "best_first": "mig_selector.selection.method",
    "compare_methods": "mig_selector.pipeline.comparison",
    "method": "mig_selector.selection.method",
    "run_selection": "mig_selector.pipeline.recipe",
    "select": "mig_selector.notebook",
    "select_rows": "mig_selector.selection.greedy",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("mig_selector")
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'mig_selector' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
