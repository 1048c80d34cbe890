# Sourced by the other scripts: goes to the root of the repository and enters a virtual environment there.
#
# PYTHON  the Python for the environment, 3.11 to 3.13 (default: the first one found)
# VENV    the environment (default: .venv); an existing one is used unchanged

cd "$(dirname "${BASH_SOURCE[0]}")/.."

is_supported() {
  "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

find_python() {
  local candidate candidates=(python3.11 python3.12 python3.13 python3)
  [[ -z "${PYTHON:-}" ]] || candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    if is_supported "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  echo "Python 3.11, 3.12 or 3.13 is required, but none of these is one: ${candidates[*]}" >&2
  echo "Install it, or say where it is: PYTHON=/path/to/python3.11 bash $0" >&2
  return 1
}

enter_environment() {
  local venv="${VENV:-.venv}" python
  if [[ ! -x "$venv/bin/python" ]]; then
    python="$(find_python)"
    "$python" -m venv "$venv"
  fi
  # With this PATH, python, llamafactory-cli and the torchrun that it starts are those of the environment.
  PATH="$(cd "$venv" && pwd)/bin:$PATH"
  export PATH
  if ! is_supported python; then
    echo "$venv has $(python --version), but Python 3.11, 3.12 or 3.13 is required." >&2
    echo "Name another environment: VENV=.venv-311 bash $0" >&2
    return 1
  fi
}
