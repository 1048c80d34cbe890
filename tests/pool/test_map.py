"""The map of the package docstring: what it draws is there, and imports only what is below it."""

import ast
import re
from pathlib import Path

import pytest

from mig_selector import pool


FOLDER = Path(pool.__file__).parent
MAP = re.findall(r"^    (\w+)(?:/|\.py) ", pool.__doc__, re.MULTILINE)
FILES = sorted(path for path in FOLDER.rglob("*.py") if path != FOLDER / "__init__.py")


def rooms_imported(path):
    """Rooms and modules of pool/ that a file imports from."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("mig_selector.pool."):
            yield node.module.split(".")[2]


def room_of(path):
    return path.relative_to(FOLDER).parts[0].removesuffix(".py")


def test_the_map_draws_every_room():
    assert sorted(MAP) == sorted({room_of(path) for path in FILES})


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_a_room_imports_only_from_rooms_below_it(path):
    own = MAP.index(room_of(path))
    assert all(MAP.index(room) >= own for room in rooms_imported(path))
    if path.parent == FOLDER:
        assert room_of(path) not in rooms_imported(path)


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*/__init__.py")), ids=lambda path: path.parent.name)
def test_a_room_names_its_modules(path):
    modules = {module.stem for module in path.parent.glob("*.py")} - {"__init__"}
    assert modules == set(re.findall(r"`(\w+)`", ast.get_docstring(ast.parse(path.read_text()))))
