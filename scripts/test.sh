#!/usr/bin/env bash
# Installs the package with what its tests need, and runs them all: style, types, tests.
#
#   bash scripts/test.sh
#
# PYTHON, VENV  see scripts/environment.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

enter_environment
python -m pip install --quiet --editable ".[dev]"

ruff check .
ruff format --check .
mypy
pytest --durations=10 "$@"
