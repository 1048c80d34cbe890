"""The loss of a language model on given answers, row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def measure_answers(
    model: Any,
    rows: Iterable[tuple[Sequence[int], Sequence[int]]],
    without_loss: int,
    on_rows: Callable[[int], object],
) -> NDArray[np.float64]:
    """Measure the mean loss over the supervised tokens of each row.

    Rows are neither padded nor put together: the loss of a row does not depend on the others.

    Args:
        model: A causal model of transformers, ready to predict.
        rows: Tokens and labels of each of N rows, at least one label of which has a loss.
        without_loss: The label of tokens that have none.
        on_rows: Called with the number of rows measured since the last call.

    Returns:
        In nats a token. Shape (N,).
    """
    import torch
    from torch.nn.functional import cross_entropy

    device = next(model.parameters()).device
    losses = []
    with torch.inference_mode():
        for ids, labels in rows:
            logits = model(input_ids=torch.tensor([ids], device=device), use_cache=False).logits[0, :-1]
            wanted = torch.tensor(labels[1:], device=device)
            is_supervised = wanted != without_loss
            # Only these rows of the logits in float32: the vocabulary is large.
            loss = cross_entropy(logits[is_supervised].float(), wanted[is_supervised])
            losses.append(float(loss))
            on_rows(1)
    return np.array(losses, np.float64)
