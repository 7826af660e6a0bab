"""The test that needs no theory: does the true key do better on these pictures than keys nobody chose?

Random keys go through the same looks with the same statistic: the standard deviations by which the logits agree better
with code bits than random signs would, best over all looks. When the pictures know nothing of the key, the true one is
one among all, and the share of keys that do as well is a valid p-value whatever the pictures show.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .bch import Bits
from .keys import Key, project, random_keys
from .many_readings import best_agreements
from .messages import Layout
from .payload import Reading, place_logits
from .statistics import RANDOM_KEYS


def known_contest(
    features: NDArray[np.float64], words: Sequence[Bits], key: Key, *, n_keys: int = RANDOM_KEYS, seed: int = 0
) -> float:
    """P-value of a key for messages that were known beforehand.

    Args:
        features: [L,128] of each look.
        words: Code bits of each message in question, as the key writes them.
        key: The true key.
        n_keys: Random keys.
        seed: Their series.
    Returns:
        Share of the keys, the true one counted in, under which a message agrees at least as well as under the true one.
    """
    keys = [key, *random_keys(n_keys, seed)]
    best = np.full(len(keys), -np.inf)
    for logits in project(keys, features, max(len(bits) for bits in words)):
        for bits in words:
            part = logits[:, : len(bits)]
            best = np.maximum(best, part @ (2.0 * bits - 1.0) / _norms(part))
    return _rank(best)


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
        n_keys: Random keys.
        seed: Their series.
    Returns:
        Share of the keys, the true one counted in, that find a word which agrees at least as well.
    """
    keys = [key, *random_keys(n_keys, seed)]
    generator = layout.code.generator[: layout.free_bits]
    best = np.full(len(keys), -np.inf)
    for logits in project(keys, features, layout.n):
        best = np.maximum(best, best_agreements(generator, place_logits(logits, layout, key)) / _norms(logits))
        if reading is not None and reading.layout == layout:
            best[0] = max(best[0], float(logits[0] @ (2.0 * reading.bits - 1.0) / _norms(logits[:1])[0]))
    return _rank(best)


def _norms(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(np.linalg.norm(logits, axis=1), 1e-12)


def _rank(agreement: NDArray[np.float64]) -> float:
    """P-value of the first of all."""
    # Rounding must not put a key below itself.
    return float(np.mean(agreement >= agreement[0] - 1e-6))
