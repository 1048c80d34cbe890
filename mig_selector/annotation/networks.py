"""Language models of transformers: loaded whole or not at all, and run over texts of different lengths.

Dimension letters: m texts of a batch, T tokens of the longest, V tokens of the vocabulary.
"""

from __future__ import annotations

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
    if info["missing_keys"]:
        raise ArgumentError(
            f"{key}: {encoder.model!r} lacks the weights {', '.join(sorted(info['missing_keys'])[:3])}, so it was not "
            f"trained as {auto_class.__name__}; give a model that was."
        )
    return network.to(device).eval()


def longest_text(network: Any, tokenizer: Any) -> int | None:
    """Return how many tokens a model reads at most; None if nothing says so."""
    stated = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    limits = [stated, tokenizer.model_max_length if tokenizer.model_max_length < _UNLIMITED else None]
    return min((limit for limit in limits if limit is not None), default=None)


def logits_at(network: Any, ids: Any, mask: Any, positions: Any) -> Any:
    """Return the logits of a causal model at some positions only: all of them could take more memory than the model.

    Args:
        network: The model.
        ids: Tokens padded at the end. Shape (m, T).
        mask: 1 at tokens of a text. Shape (m, T).
        positions: Whether logits are wanted there. Shape (m, T).

    Returns:
        A tensor of shape (number of positions, V), text after text.
    """
    head = network.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][positions],))
    try:
        return network(input_ids=ids, attention_mask=mask, use_cache=False).logits
    finally:
        hook.remove()
