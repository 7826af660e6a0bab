"""How often something is found where nothing was hidden: thousands of pairs of a picture and a key that is not its own.

Every pair gets the looks of extraction, and the best identity among all there are is held against its bound, but in
bulk and without the second opinion of random keys, so that extraction gives fewer alarms, if any. Texts are left out:
they have half of the allowed false alarms to themselves, and a CRC on top.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from ...progress import Progress
from .extractor import Extractor
from .keys import Key, project, random_keys
from .many_readings import best_agreements
from .messages import LAYOUTS, Layout, Message
from .payload import MAX_FALSE_ALARM, place_logits, write_code
from .scale_search import FACTOR_SHARES, FeatureReader, FeatureTable, View
from .statistics import log2_loss_tail

Picture = UInt8[np.ndarray, "H W 3"]
_AT_ONCE = 200
_SHARE = 0.5
"""Of the allowed false alarms that identities have; texts have the rest. The other identity code is for longer features
than those of the public extractor."""


@dataclass(frozen=True)
class FalseAlarms:
    """Counts over pairs of a picture and a wrong key.

    Attributes:
        pairs: Pairs that were looked at.
        read: Pairs in which some identity was believed.
        recognised: Pairs in which the expected message was believed.
        closest: Smallest bound on false alarms that any pair reached; below 1e-6 it is believed.
        bit_agreement: Mean share of the message's code bits that wrong keys read right; chance gives one half.
        bit_deviation: Standard deviation of that share between pairs.
    """

    pairs: int
    read: int
    recognised: int
    closest: float
    bit_agreement: float
    bit_deviation: float


def count_false_alarms(
    pictures: Sequence[Picture], key: Key, message: Message, layout: Layout, extractor: Extractor, n_pairs: int,
    progress: Progress, *, seed: int = 1,
) -> FalseAlarms:  # fmt: skip
    """Read pictures with keys that nobody wrote with.

    Args:
        pictures: Of any kind; a marked one is as good as others, since its key is not among those tried.
        key: The true key: its order and whitening are used, and directions of random keys.
        message: The one that recognition expects.
        layout: Its code.
        extractor: Reads the pictures.
        n_pairs: Picture-key pairs, at least.
        progress: Told about pictures.
        seed: Series of the random keys; not that of the contest in extraction.
    """
    per_picture = -(-n_pairs // len(pictures))
    identity = next(code for code in LAYOUTS if code.is_identity)
    word = write_code(message, key, layout)
    reader = FeatureReader(extractor)
    progress.stage("looking for false alarms", len(pictures))
    bounds, agreements, tails = [], [], []
    for number, picture in enumerate(pictures):
        table = FeatureTable(reader)
        table.add(View(str(number), picture))
        looks = np.stack([trial.feature for trial in table.trials()])
        for first in range(0, per_picture, _AT_ONCE):
            start = number * per_picture + first
            keys = random_keys(min(_AT_ONCE, per_picture - first), seed, first=start)
            logits = project(keys, looks, max(identity.n, layout.n))
            bounds.append(_read_bounds(logits, identity, key))
            tails.append(_known_bounds(logits[..., : layout.n], word))
            agreements.append(((logits[0, :, : layout.n] > 0) == (word > 0)).mean(1))
        progress.advance(number + 1)
    read, known, agreement = (np.concatenate(parts) for parts in (bounds, tails, agreements))
    return FalseAlarms(
        len(read), int((read <= MAX_FALSE_ALARM).sum()), int((known <= MAX_FALSE_ALARM).sum()),
        float(min(read.min(), known.min())), float(agreement.mean()), float(agreement.std()),
    )  # fmt: skip


def _read_bounds(logits: NDArray[np.float64], layout: Layout, key: Key) -> NDArray[np.float64]:
    """[K] bound on the false alarms of the best identity in any look [L,K,N], at the price of the likeliest look."""
    placed = place_logits(logits, layout, key)
    found = np.stack([best_agreements(layout.code.generator[: layout.free_bits], look) for look in placed])
    return _bounds(placed, found, float(layout.free_bits)) / (_SHARE * max(FACTOR_SHARES.values()))


def _known_bounds(logits: NDArray[np.float64], word: NDArray[np.uint8]) -> NDArray[np.float64]:
    """[K] the same for one word that is known beforehand."""
    return _bounds(logits, logits @ (2.0 * word - 1.0), 0.0) / max(FACTOR_SHARES.values())


def _bounds(logits: NDArray[np.float64], agreement: NDArray[np.float64], log2_rivals: float) -> NDArray[np.float64]:
    """[K] of the look that agrees best, from logits [L,K,n] and the agreement [L,K] with a word."""
    norms = np.maximum(np.linalg.norm(logits, axis=-1), 1e-12)
    best = (agreement / norms).argmax(0)
    columns = np.arange(logits.shape[1])
    weights, sums = np.abs(logits[best, columns]), agreement[best, columns]
    tails = [log2_loss_tail(each, max(0.0, (each.sum() - sum_) / 2)) for each, sum_ in zip(weights, sums, strict=True)]
    return np.minimum(1.0, 2.0 ** (np.array(tails) + log2_rivals))
