"""A train script for torchrun: trains as its command line says, and notes in which state training begins.

Every rank writes what it found to <output_dir>-rank<RANK>.json.
"""

import json
import os
import sys
from pathlib import Path

import torch
from torch import distributed
from transformers import TrainerCallback


environment = dict(os.environ)
groups_made = 0
make_group = distributed.init_process_group


def count_groups(*args, **kwargs):
    global groups_made
    groups_made += 1
    return make_group(*args, **kwargs)


distributed.init_process_group = count_groups


class Record(TrainerCallback):
    def on_train_begin(self, args, state, control, **kwargs):
        from accelerate.state import AcceleratorState, PartialState
        from transformers.integrations import is_deepspeed_zero3_enabled

        backend = distributed.group.WORLD._get_backend(torch.device("cpu"))
        facts = {
            "process groups made": groups_made,
            "timeout in seconds": backend.options._timeout.total_seconds(),
            "backend": distributed.get_backend(),
            "ranks": distributed.get_world_size(),
            "environment: added or changed": {
                name: value for name, value in os.environ.items() if environment.get(name) != value
            },
            "environment: gone": sorted(set(environment) - set(os.environ)),
            "PartialState": {name: str(value) for name, value in PartialState._shared_state.items()},
            "AcceleratorState": sorted(AcceleratorState._shared_state),
            "ZeRO-3": is_deepspeed_zero3_enabled(),
            "threads": torch.get_num_threads(),
            "default dtype": str(torch.get_default_dtype()),
            "gradients": torch.is_grad_enabled(),
            "sentence_transformers is loaded": "sentence_transformers" in sys.modules,
        }
        Path(f"{args.output_dir}-rank{os.environ['RANK']}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    from llamafactory.train.tuner import run_exp

    run_exp(callbacks=[Record()])
