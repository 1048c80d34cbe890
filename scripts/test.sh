#!/usr/bin/env bash
# Installs the package with what its tests need, and runs them all: style, types, tests.
#
#   bash scripts/test.sh
#
# Two workers share the test files; what stands behind the command goes to pytest: `bash scripts/test.sh -n 8`.
#
# PYTHON, VENV  see scripts/environment.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

enter_environment
python -m pip install --quiet --editable ".[dev]"

ruff check .
ruff format --check .
mypy
pytest -n 2 --dist loadfile --durations=10 "$@"
