#!/usr/bin/env bash
# Tests the package with other versions of LLaMA-Factory, each in its own virtual environment.
#
#   bash scripts/test_versions.sh                # every supported minor version, and the newest that can be installed
#   bash scripts/test_versions.sh 0.9.4 newest
#   bash scripts/test_versions.sh ~/LLaMA-Factory # a checkout, for example of its main branch
#   bash scripts/test_versions.sh floors         # the lowest version that pyproject.toml allows of every dependency
#
# Each environment gets the versions that pip resolves for that LLaMA-Factory and this package's requirements. The tests
# are those of the hook and of every way to launch a run, with one and two processes. The table at the end lists the
# installed versions.
#
# PYTHON         the Python for the environments, 3.11 to 3.13 (default: the first one found)
# VERSIONS_DIR   where environments and logs are kept (default: .venvs); an environment takes about 8 GB
# KEEP           1: keep each environment after its run, and reuse an existing one (default: remove it)
# TESTS          test files for pytest (default: the hook, the launch forms and the encoder)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

VERSIONS_DIR="${VERSIONS_DIR:-.venvs}"
TESTS="${TESTS:-tests/test_hook.py tests/test_launch.py tests/integration/test_host.py tests/embedding}"
PACKAGES=(llamafactory torch transformers sentence-transformers accelerate deepspeed)

make_environment() { # version or checkout, folder
  [[ -x "$2/bin/python" ]] || "$PYTHON" -m venv "$2"
  local wanted=("llamafactory[deepspeed]==$1")
  [[ ! -d "$1" ]] || wanted=("$(realpath "$1")")
  case "$1" in
    newest) wanted=(llamafactory) ;;
    floors) mapfile -t wanted < <(floors) ;;
    # The extra pins DeepSpeed 0.16.9 here, which cannot train LoRA with torch 2.10, even without this package.
    0.9.3 | 0.9.4) wanted+=("torch<2.9") ;;
  esac
  "$2/bin/python" -m pip install --quiet --upgrade pip
  "$2/bin/python" -m pip install --quiet --editable ".[dev]" "${wanted[@]}"
}

floors() { # prints the lowest allowed version of each dependency that has one, as a requirement
  "$PYTHON" - <<'EOF'
import re, tomllib

for line in tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]:
    if found := re.match(r"([\w-]+)>=([\d.]+)", line):
        print(f"{found[1]}=={found[2]}.*")
EOF
}

installed() { # folder, packages; prints the version of each
  "$1/bin/python" -c 'import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))' "${@:2}"
}

run_tests() { # folder
  local here
  here="$(cd "$1" && pwd)"
  # DeepSpeed reuses compiled extensions, even those built for another torch, so each environment has its own folder.
  # shellcheck disable=SC2086  # TESTS is split into words
  PATH="$here/bin:$PATH" TORCH_EXTENSIONS_DIR="$here/torch_extensions" \
    python -m pytest --quiet -p no:cacheprovider --basetemp "$here/tmp" $TESTS
}

test_version() { # version or checkout, its name; prints its row of the table
  local folder="$VERSIONS_DIR/$2" log="$VERSIONS_DIR/$2.log" found result=passed
  if ! make_environment "$1" "$folder" >"$log" 2>&1; then
    echo "$2 cannot be installed, see $log"
    return
  fi
  read -r -a found < <(installed "$folder" "${PACKAGES[@]}")
  if [[ "$1" == newest ]] && grep -q "^${found[0]} " "$table"; then
    echo "newest is ${found[0]}"
    return
  fi
  run_tests "$folder" >>"$log" 2>&1 || result=FAILED
  printf "$ROW" "${found[@]%%+*}" "$result: $(tail -n 1 "$log")"
}

PYTHON="$(find_python)"
ROW='%-13s %-8s %-13s %-22s %-11s %-10s %s\n'
mkdir -p "$VERSIONS_DIR"
(($# > 0)) || set -- 0.9.3 0.9.4 0.9.5 newest
table="$VERSIONS_DIR/table.txt"
printf "$ROW" "${PACKAGES[@]}" result >"$table"
for version in "$@"; do
  name="$(basename "$version")"
  echo "== $version (log: $VERSIONS_DIR/$name.log)"
  test_version "$version" "$name" | tee -a "$table"
  [[ "${KEEP:-}" == 1 ]] || rm -rf "${VERSIONS_DIR:?}/$name"
done
echo
cat "$table"
! grep -q -e FAILED -e "cannot be installed" "$table"
