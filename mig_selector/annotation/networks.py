"""Language models of transformers: loaded whole or not at all, and run over texts of different lengths.

Dimension letters: m texts of a batch, T tokens of the longest, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from mig_selector.embedding.encoder import Encoder
from mig_selector.errors import ArgumentError
from mig_selector.ranks.models import dtype_argument, loading


_UNLIMITED = 1_000_000
"""A tokenizer that knows no limit of its model gives a number above this."""


def load_network(auto_class: Any, encoder: Encoder, key: str, device: Any) -> Any:
    """Load a model for inference.

    Args:
        auto_class: A class of transformers such as AutoModelForCausalLM.
        encoder: The model.
        key: Names it in the configuration.
        device: A torch device.

    Raises:
        ArgumentError: It cannot be loaded, or its files lack weights, which transformers would draw at random.
    """
    with loading(key, encoder.model, ArgumentError):
        network, info = auto_class.from_pretrained(
            encoder.model, revision=encoder.revision, output_loading_info=True, **dtype_argument(encoder.dtype)
        )
        network = network.to(device).eval()
    if info["missing_keys"]:
        raise ArgumentError(
            f"{key}: {encoder.model!r} lacks the weights {', '.join(sorted(info['missing_keys'])[:3])}, so it was not "
            f"trained as {auto_class.__name__}; give a model that was."
        )
    return network


def longest_text(network: Any, tokenizer: Any) -> int | None:
    """Return how many tokens a model reads at most; None if nothing says so."""
    stated = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    limits = [stated, tokenizer.model_max_length if tokenizer.model_max_length < _UNLIMITED else None]
    return min((limit for limit in limits if limit is not None), default=None)


def read_prefix(network: Any, ids: Sequence[int]) -> Any | None:
    """Have a causal model read the tokens with which texts begin, once for all of them.

    Returns:
        What its layers keep of them, for `logits_at`; None if a layer keeps something else than the keys and values of
        all tokens (those of a sliding window, the state of a recurrent layer).
    """
    import torch
    from transformers import cache_utils

    with torch.inference_mode():
        output = network(input_ids=torch.tensor([ids], device=network.device), use_cache=True)
    past = getattr(output, "past_key_values", None)
    layers = getattr(past, "layers", [])  # older versions of transformers have none
    if {type(layer) for layer in layers} != {getattr(cache_utils, "DynamicLayer", None)}:
        return None
    for layer in layers:
        layer.update = partial(_append, layer)
    return past


def _append(layer: Any, keys: Any, values: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
    """Return keys and values of a layer for the prefix and the rest of each text; keep only those of the prefix."""
    import torch

    def join(prefix: Any, rest: Any) -> Any:
        return torch.cat([prefix.expand(len(rest), -1, -1, -1), rest], dim=-2)

    return join(layer.keys, keys), join(layer.values, values)


def logits_at(network: Any, ids: Any, mask: Any, positions: Any, past: Any = None) -> Any:
    """Return the logits of a causal model at some positions only: all of them could take more memory than the model.

    Args:
        network: The model.
        ids: Tokens padded at the end. Shape (m, T).
        mask: 1 at tokens of a text. Shape (m, T).
        positions: Whether logits are wanted there. Shape (m, T).
        past: What `read_prefix` returned of the tokens with which all texts begin; no logits are wanted there.

    Returns:
        A tensor of shape (number of positions, V), text after text.
    """
    start = past.get_seq_length() if past is not None else 0
    head = network.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][positions[:, start:]],))
    try:
        return network(
            input_ids=ids[:, start:], attention_mask=mask, past_key_values=past, use_cache=past is not None
        ).logits
    finally:
        hook.remove()
