"""How much of a text is also in a pool: shared runs of 13 words, as GPT-3 (arXiv 2005.14165) counts them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray


GRAM = 13
"""Words of a run."""
FLAGGED_SHARE = 0.5
"""Share of its runs from which a held-out row is flagged: a single shared run is mostly a template."""

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Letters of scripts without spaces between words: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
"""A word; each of those letters counts as one."""
_KEPT_WORDS = 1 << 22
"""Words whose hashes are kept at once: most words of a large pool are numbers and names that it has once."""
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def question_key(question: str) -> bytes:
    """Return a hash of a question that does not depend on letter case and white space."""
    return hashlib.blake2b(" ".join(question.casefold().split()).encode("utf-8", "replace"), digest_size=16).digest()


def shared_shares(texts: Sequence[str], pool: Iterable[str]) -> NDArray[np.float64]:
    """Return the share of each text's runs of 13 words that are in the pool; 0 for a text of fewer words.

    Args:
        texts: N texts.
        pool: The texts of the pool. Streamed.

    Returns:
        In [0, 1]. Shape (N,).
    """
    hashed: dict[str, int] = {}
    grams = [_grams(text, hashed) for text in texts]
    wanted = np.unique(np.concatenate([*grams, np.zeros(0, np.uint64)]))
    is_found = np.zeros(len(wanted), np.bool_)
    for text in pool:
        found = _grams(text, hashed)
        if len(found) and len(wanted):
            at = np.minimum(np.searchsorted(wanted, found), len(wanted) - 1)
            is_found[at[wanted[at] == found]] = True
    return np.array([is_found[np.searchsorted(wanted, each)].mean() if len(each) else 0.0 for each in grams])


def _grams(text: str, hashed: dict[str, int]) -> NDArray[np.uint64]:
    """Return the hashes of the distinct runs of words of a text; `hashed` keeps the hashes of words."""
    words = _WORD.findall(text.casefold())
    count = len(words) - GRAM + 1
    if count < 1:
        return np.zeros(0, np.uint64)
    if len(hashed) > _KEPT_WORDS:
        hashed.clear()
    for word in words:
        if word not in hashed:
            digest = hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest()
            hashed[word] = int.from_bytes(digest, "little")
    ids = np.array([hashed[word] for word in words], np.uint64)
    made = np.zeros(count, np.uint64)
    for offset in range(GRAM):  # wraps around at 64 bits, as a hash may
        made = made * _FACTOR + ids[offset : offset + count]
    return np.unique(made)
