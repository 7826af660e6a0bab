"""Everything that training depends on, as named tensors: what a checkpoint holds and what a rollback returns to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError


@dataclass(frozen=True)
class TrainState:
    """A copy of a moment of training.

    Attributes:
        weights: The method's whole state.
        trainer: Optimiser, sampler, clock and counters, each under its own prefix.
    """

    weights: dict[str, Tensor]
    trainer: dict[str, Tensor]


def to_scalar(value: float | int) -> Tensor:
    """A number as a tensor that keeps every bit of it."""
    return torch.tensor(value, dtype=torch.int64 if isinstance(value, int) else torch.float64)


def with_prefix(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under `prefix/name`."""
    return {f"{prefix}/{name}": value for name, value in state.items()}


def below_prefix(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `with_prefix`, under their own names again."""
    return {name.removeprefix(f"{prefix}/"): value for name, value in state.items() if name.startswith(f"{prefix}/")}


@contextmanager
def damaged_random_state(where: Path) -> Iterator[None]:
    """Say in one line that torch refuses the state of a random generator, whose type and size are right."""
    try:
        yield
    except RuntimeError as error:
        if "state" not in str(error):
            raise
        raise UserError(f"damaged ({error})", where=where, fix="Use another checkpoint: --checkpoint STEP") from error


def copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy on the CPU that later training does not touch."""
    return {name: value.detach().to("cpu", copy=True) for name, value in state.items()}
