#!/usr/bin/env bash
# Runs the tests of the selection methods with bounds checks in the compiled code: an index beyond an array is an
# IndexError then, and not a read or write somewhere in memory.
#
#   bash scripts/test_bounds.sh
#   bash scripts/test_bounds.sh tests/selection/test_greedy.py -k naive
#
# The checked code is compiled in a cache of its own, which is removed in the end.
#
# PYTHON, VENV  see scripts/environment.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

enter_environment
cache="$(mktemp -d)"
trap 'rm -rf "$cache"' EXIT
(($# > 0)) || set -- tests/selection
NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR="$cache" python -m pytest "$@"
