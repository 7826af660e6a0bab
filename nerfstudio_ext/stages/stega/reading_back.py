"""How much of a known message pictures give back: bits, whole messages from one picture, and from several together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from .extraction import extract
from .extractor import Extractor
from .findings import Extraction
from .keys import Key
from .messages import Layout, Message
from .scale_search import View

TOGETHER = 4
_RANDOM_KEYS = 200
"""For the second opinion; with 2000 it takes longer than the reading, and these pictures are known to be marked."""


@dataclass(frozen=True)
class ReadBack:
    """What was read.

    Attributes:
        pictures: How many pictures.
        bit_accuracy: Share of the code bits that single pictures have right, mean.
        exact_one: Share of the pictures that give exactly the message, each alone.
        exact_four: Share of the groups of four that do, each read together; of fewer pictures the one group they make.
    """

    pictures: int
    bit_accuracy: float
    exact_one: float
    exact_four: float


@dataclass(frozen=True)
class Reader:
    """Reads one message again and again.

    Attributes:
        extractor: What it is read with.
        key: What it was written with.
        message: What should be read.
        layout: The code. A message in a code without check bits counts as read when it is recognised.
    """

    extractor: Extractor
    key: Key
    message: Message
    layout: Layout

    def read(self, pictures: Sequence[UInt8[np.ndarray, "H W 3"]]) -> ReadBack:
        """Read pictures of one scene, alone and in groups of four from all over it."""
        singles = [self._look([picture]) for picture in pictures]
        n_groups = max(1, len(pictures) // TOGETHER)
        groups = [self.is_exact(pictures[first::n_groups][:TOGETHER]) for first in range(n_groups)]
        return ReadBack(
            len(pictures),
            float(np.mean([accuracy for _, accuracy in singles])),
            float(np.mean([exact for exact, _ in singles])),
            float(np.mean(groups)),
        )

    def is_exact(self, pictures: Sequence[UInt8[np.ndarray, "H W 3"]]) -> bool:
        """Whether pictures read together give exactly the message."""
        return self._is_exact(self._extract(pictures, [] if self.layout.is_coded else [self.message]))

    def _look(self, pictures: Sequence[UInt8[np.ndarray, "H W 3"]]) -> tuple[bool, float]:
        """Whether the message is read, and the share of its code bits that are right."""
        found = self._extract(pictures, [] if self.layout.is_coded else [self.message])
        if self._is_exact(found) and found.views[0].bit_accuracy is not None:
            return True, found.views[0].bit_accuracy
        known = self._extract(pictures, [self.message], layouts=[self.layout])
        return self._is_exact(found), known.bit_accuracy if known.bit_accuracy is not None else 0.5

    def _is_exact(self, found: Extraction) -> bool:
        return found.present and found.message == self.message

    def _extract(
        self, pictures: Sequence[UInt8[np.ndarray, "H W 3"]], expected: Sequence[Message],
        layouts: Sequence[Layout] | None = None,
    ) -> Extraction:  # fmt: skip
        views = [View(str(number), picture) for number, picture in enumerate(pictures)]
        return extract(
            views, self.key, extractor=self.extractor, expected=expected, layouts=layouts, n_random_keys=_RANDOM_KEYS
        )
