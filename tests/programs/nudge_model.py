"""Stands for a slow training in tests: moves one weight matrix of the model by as much as the rows and the seed say.

    python nudge_model.py train.yaml

It reads what LLaMA-Factory would, and leaves what LLaMA-Factory would: a model folder with trainer_state.json. A file
named `fail_after` beside the study's runs, with a number N in it, makes the training after the Nth one fail.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import yaml
from safetensors.numpy import load_file, save_file


def main(config):
    keys = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
    output, model, data = Path(keys["output_dir"]), Path(keys["model_name_or_path"]), Path(keys["dataset_dir"])
    limit = output.parents[1] / "fail_after"
    if limit.exists():
        left = int(limit.read_text())
        if not left:
            sys.exit("no time left")
        limit.write_text(str(left - 1))
    info = json.loads((data / "dataset_info.json").read_text(encoding="utf-8"))
    rows = sum(
        len(Path(info[name]["file_name"]).read_text("utf-8").splitlines()) for name in keys["dataset"].split(",")
    )
    shutil.copytree(model, output)
    weights = load_file(output / "model.safetensors")
    rng = np.random.default_rng([keys["seed"], rows])
    weights["lm_head.weight"] += rng.normal(0, 0.002, weights["lm_head.weight"].shape).astype(np.float32)
    save_file(weights, output / "model.safetensors", metadata={"format": "pt"})
    per_step = keys["per_device_train_batch_size"] * keys["gradient_accumulation_steps"]
    state = {"global_step": keys["max_steps"], "epoch": keys["max_steps"] * per_step / rows}
    (output / "trainer_state.json").write_text(json.dumps(state))


main(sys.argv[1])
