"""The test that needs no theory: does the true key do better on these pictures than keys nobody chose?

Random keys go through the same looks with the same statistic: the standard deviations by which the logits agree better
with code bits than random signs would, best over all looks. When the pictures know nothing of the key, the true one is
one among all, and how many keys it takes until enough do as well is a valid p-value whatever the pictures show.
Source: Besag and Clifford, Sequential Monte Carlo p-values, 1991.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from .bch import Bits
from .keys import Key, project, random_keys
from .many_readings import best_agreements
from .messages import Layout
from .payload import Reading, place_logits
from .statistics import RANDOM_KEYS

_ENOUGH = 50
"""Random keys that do as well after which no more are asked: the p-value is known to 14 %, mostly after 100 keys."""
_AT_ONCE = 200


def known_contest(
    features: NDArray[np.float64], words: Sequence[Bits], key: Key, *, n_keys: int = RANDOM_KEYS, seed: int = 0
) -> float:
    """P-value of a key for messages that were known beforehand.

    Args:
        features: [L,128] of each look.
        words: Code bits of each message in question, as the key writes them.
        key: The true key.
        n_keys: Random keys at most; the p-value is at least 1 / (n_keys + 1).
        seed: Their series.
    Returns:
        Chance that a message agrees under a random key at least as well as under the true one.
    """

    def best(keys: Sequence[Key]) -> NDArray[np.float64]:
        found = np.full(len(keys), -np.inf)
        for logits in project(keys, features, max(len(bits) for bits in words)):
            for bits in words:
                part = logits[:, : len(bits)]
                found = np.maximum(found, part @ (2.0 * bits - 1.0) / _norms(part))
        return found

    return _p_value(float(best([key])[0]), best, n_keys, seed)


def blind_contest(
    features: NDArray[np.float64], layout: Layout, key: Key, reading: Reading | None, *,
    n_keys: int = RANDOM_KEYS, seed: int = 0,
) -> float:  # fmt: skip
    """P-value of a key for any message at all.

    Args:
        features: [L,128] of each look.
        layout: Code whose words compete.
        key: The true key; the random ones differ from it in their directions only.
        reading: What the true key read; its thorough search may have found a better word than the quick one here.
        n_keys: Random keys at most; the p-value is at least 1 / (n_keys + 1).
        seed: Their series.
    Returns:
        Chance that a random key finds a word that agrees at least as well.
    """
    generator = layout.code.generator[: layout.free_bits]

    def best(keys: Sequence[Key]) -> NDArray[np.float64]:
        found = np.full(len(keys), -np.inf)
        for logits in project(keys, features, layout.n):
            found = np.maximum(found, best_agreements(generator, place_logits(logits, layout, key)) / _norms(logits))
        return found

    truth = float(best([key])[0])
    if reading is not None and reading.layout == layout:
        logits = project([key], features, layout.n)[:, 0]
        truth = max(truth, float((logits @ (2.0 * reading.bits - 1.0) / _norms(logits)).max()))
    return _p_value(truth, best, n_keys, seed)


def _p_value(truth: float, best: Callable[[Sequence[Key]], NDArray[np.float64]], n_keys: int, seed: int) -> float:
    """Draw random keys until enough do at least as well as the true one."""
    n_equal = 0
    for first in range(0, n_keys, _AT_ONCE):
        keys = random_keys(min(_AT_ONCE, n_keys - first), seed, first=first)
        # Rounding must not decide between equals.
        is_equal = best(keys) >= truth - 1e-6
        if n_equal + is_equal.sum() >= _ENOUGH:
            last = int(np.flatnonzero(is_equal)[_ENOUGH - n_equal - 1])
            return _ENOUGH / (first + last + 1)
        n_equal += int(is_equal.sum())
    return (1 + n_equal) / (n_keys + 1)


def _norms(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(np.linalg.norm(logits, axis=-1), 1e-12)
