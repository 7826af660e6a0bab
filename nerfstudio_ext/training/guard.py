"""Telling a usable training step from one that would ruin the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum

from torch import Tensor

from .train_state import to_scalar

_EXPLODED = 100.0
"""A loss this many times the running mean has left the basin; ordinary batches stay within a factor of three."""
EXPLODED_RMS = 100.0
"""Weights of trained networks and tables stay below 10. A rate that is far too high leaves finite losses (colours are
bounded), but its first step moves every weight by about the rate."""
STEPS_PER_LOOK = 10
"""Steps between two looks at the size of the weights: one pass over them, a tenth of a millisecond a step."""
_MEMORY = 0.98
_TRUST_AFTER = 20
"""Steps before the running mean means anything."""


class Verdict(Enum):
    """What to do with a step."""

    USE = "use"
    SKIP = "skip"
    ROLL_BACK = "roll back"


class StepGuard:
    """Counts unusable steps and says when to return to the last good state.

    Attributes:
        n_skipped: Steps skipped so far.
        n_rollbacks: Returns to the last good state so far.
        rate: Factor on all learning rates; halved at each return.
    """

    def __init__(self, bad_steps_before_rollback: int) -> None:
        self.limit = bad_steps_before_rollback
        self.n_skipped = 0
        self.n_rollbacks = 0
        self.rate = 1.0
        self._n_in_a_row = 0
        self._mean_loss = 0.0
        self._n_good = 0

    def judge_loss(self, loss: float) -> bool:
        """Whether a loss value can be trained on."""
        if not math.isfinite(loss):
            return False
        return self._n_good < _TRUST_AFTER or abs(loss) <= _EXPLODED * abs(self._mean_loss)

    def good(self, loss: float) -> None:
        """Record a step that was used."""
        self._n_in_a_row = 0
        self._n_good += 1
        memory = min(_MEMORY, 1 - 1 / self._n_good)
        self._mean_loss = memory * self._mean_loss + (1 - memory) * loss

    def bad(self) -> Verdict:
        """Record a step that was not used."""
        self.n_skipped += 1
        self._n_in_a_row += 1
        return Verdict.ROLL_BACK if self._n_in_a_row >= self.limit else Verdict.SKIP

    def rolled_back(self) -> None:
        """Record a return to the last good state; the loss is watched afresh from there."""
        self.n_rollbacks += 1
        self.rate /= 2
        self._n_in_a_row = 0
        self._n_good = 0
        self._mean_loss = 0.0

    def state(self) -> dict[str, Tensor]:
        """All counters, as tensors."""
        return {name.strip("_"): to_scalar(getattr(self, name)) for name in self._FIELDS}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state()`."""
        for name in self._FIELDS:
            setattr(self, name, state[name.strip("_")].item())

    _FIELDS = ("n_skipped", "n_rollbacks", "rate", "_n_in_a_row", "_mean_loss", "_n_good")
