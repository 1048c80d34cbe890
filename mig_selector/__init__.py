"""Choose the part of an instruction pool worth training on, and hand it to LLaMA-Factory.

Layers (a module imports only from layers to its right; neighbours do not import each other)::

    cli, hook > pipeline, reference > arguments > integration, report > annotation
        > pool, embedding, graph, selection > store, ranks, console > settings, arrays > errors

`_autoload` stands above them all: Python imports it at every start, and it imports nothing.

Importing this package imports neither torch nor numba: the public names are loaded when first used.
"""

__all__ = [
    "Candidates",
    "LabelledPool",
    "MigArguments",
    "MigSelectorError",
    "Selection",
    "__version__",
    "compare_methods",
    "method",
    "run_selection",
    "select_rows",
]

_HOMES = {
    "Candidates": "mig_selector.selection.method",
    "LabelledPool": "mig_selector.arrays",
    "MigArguments": "mig_selector.arguments",
    "MigSelectorError": "mig_selector.errors",
    "Selection": "mig_selector.arrays",
    "compare_methods": "mig_selector.pipeline.comparison",
    "method": "mig_selector.selection.method",
    "run_selection": "mig_selector.pipeline.recipe",
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
