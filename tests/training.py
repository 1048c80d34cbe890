"""What the tests that train share: commands of the real LLaMA-Factory, and what they say."""

import re
import socket
from concurrent.futures import ThreadPoolExecutor
from subprocess import CompletedProcess

import numpy as np
import yaml
from support import run_command


EXIT_RACE = "terminate called without an active exception"
"""Stock LLaMA-Factory, without this plugin, aborts now and then when one of two CPU ranks has finished and exits."""


def train(*words, env=None, launcher=("llamafactory-cli", "train")):
    """Run a training command; once more if it fell into the host's race at exit."""
    done = run_command(*launcher, *words, env=env)
    if fell_into_the_exit_race(done):
        done = keep_first_output(done, run_command(*launcher, *words, "overwrite_output_dir=true", env=env))
    return done


def fell_into_the_exit_race(done):
    return done.returncode != 0 and EXIT_RACE in done.stderr


def keep_first_output(first, second):
    """The output of the first run, if the second succeeds: only the first one selected what a test looks for."""
    return CompletedProcess(first.args, 0, first.stdout, first.stderr) if second.returncode == 0 else second


def host_settings(model, output_dir):
    """Keys of LLaMA-Factory for a run of two steps."""
    return {
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": model,
        "finetuning_type": "full",
        "template": "llama3",
        "cutoff_len": 128,
        "output_dir": str(output_dir),
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "report_to": "none",
        "save_only_model": True,
    }


def trained_tokens(model, rows):
    """What is fed for each row with the template llama3, written out by hand: all tokens, and those with a loss."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    head = "<|start_header_id|>{}<|end_header_id|>\n\n"
    counts = []
    for row in rows:
        question, answer = (turn["content"] for turn in row["dialogs"])
        prompt = tokenizer.bos_token + head.format("user") + question + "<|eot_id|>" + head.format("assistant")
        texts = prompt, answer + "<|eot_id|>"
        fed, supervised = (len(tokenizer.encode(text, add_special_tokens=False)) for text in texts)
        counts.append((fed + supervised, supervised))
    return np.array(counts)


def write_yaml(folder, settings, name="train"):
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def num_examples(done):
    """What the host says it trains on; each of its processes may say so."""
    assert done.returncode == 0, done.stderr[-3000:]
    return {int(number.replace(",", "")) for number in re.findall(r"Num examples = ([\d,]+)", done.stderr)}


def train_on_two_nodes(yamls, envs=({}, {}), cwds=(None, None)):
    """Run one training on two "nodes" of one process each; once more if one fell into the host's race at exit."""
    done = _run_nodes(yamls, envs, cwds)
    if any(map(fell_into_the_exit_race, done)):
        done = list(map(keep_first_output, done, _run_nodes(yamls, envs, cwds, "overwrite_output_dir=true")))
    return done


def _run_nodes(yamls, envs, cwds, *words):
    common = {
        "FORCE_TORCHRUN": "1",
        "NNODES": "2",
        "NPROC_PER_NODE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    with ThreadPoolExecutor() as threads:
        nodes = [
            threads.submit(
                run_command,
                *("llamafactory-cli", "train", path, *words),
                env={**common, "NODE_RANK": str(number), **env},
                cwd=cwd,
            )
            for number, (path, env, cwd) in enumerate(zip(yamls, envs, cwds, strict=True))
        ]
        return [node.result() for node in nodes]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
