#!/usr/bin/env bash
# Installs the package with what its tests need, and checks style, types and all tests but those that need a GPU.
#
#   bash scripts/test.sh                     # about 20 minutes on two cores, plus the installation
#   bash scripts/test.sh --fast              # at most 3 minutes: no test that is marked slow
#   bash scripts/test.sh tests/pool -k csv   # arguments go to pytest
#
# Two workers share the test files, the long ones first; `-n 8` takes eight. Tests of pages in a browser run where there
# is a chromium (`apt install chromium`) or Chrome; the header of pytest's output says so.
#
# PYTHON, VENV  see scripts/environment.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

if [[ "${1:-}" == --fast ]]; then
  shift
  set -- -m "not slow" "$@"
fi

enter_environment
python -m pip install --quiet --editable ".[dev]"

ruff check .
ruff format --check .
mypy
pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=10 "$@"
