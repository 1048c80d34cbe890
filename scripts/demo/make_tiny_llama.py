"""Make a tiny Llama with random weights, and a tokenizer trained on the demo pool.

The model is too small to learn anything useful. It has what LLaMA-Factory needs from a Llama 3, such as the special
tokens of the ``llama3`` template, so the demo trains on a CPU in minutes and downloads nothing.

Example:
    python scripts/demo/make_tiny_llama.py --pool demo/data/demo_pool.jsonl --output-dir demo/tiny-llama
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


BEGIN, END, PAD, TURN_END = "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", "<|eot_id|>"
SPECIAL_TOKENS = [BEGIN, END, PAD, TURN_END, "<|eom_id|>", "<|start_header_id|>", "<|end_header_id|>"]


def read_texts(pool_path: Path) -> Iterator[str]:
    """Yield the text of every message in the pool."""
    with pool_path.open(encoding="utf-8") as lines:
        for line in lines:
            for message in json.loads(line)["dialogs"]:
                yield message["content"]


def train_tokenizer(texts: Iterator[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with the special tokens of Llama 3."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, max_length: int, seed: int) -> LlamaForCausalLM:
    """Build a Llama of two small layers with random weights."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=[tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(TURN_END)],
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def main() -> None:
    """Make the tokenizer and the model and save them in one folder."""
    parser = argparse.ArgumentParser(description="Make a tiny Llama with random weights for the demo.")
    parser.add_argument("--pool", type=Path, default=Path("demo/data/demo_pool.jsonl"), help="JSON Lines file to read")
    parser.add_argument("--output-dir", type=Path, default=Path("demo/tiny-llama"), help="folder of the model")
    parser.add_argument("--vocab-size", type=int, default=2000, help="number of tokens, including special ones")
    parser.add_argument("--max-length", type=int, default=1024, help="context length in tokens")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the weights")
    arguments = parser.parse_args()
    if not arguments.pool.is_file():
        parser.error(f"{arguments.pool} is not a file; run this in the root of the repository, or set --pool")

    tokenizer = train_tokenizer(read_texts(arguments.pool), arguments.vocab_size, arguments.max_length)
    model = build_model(tokenizer, arguments.max_length, arguments.seed)
    tokenizer.save_pretrained(arguments.output_dir)
    model.save_pretrained(arguments.output_dir)
    print(f"{arguments.output_dir}: {model.num_parameters():,} weights, {len(tokenizer):,} tokens")


if __name__ == "__main__":
    main()
