"""An optimiser's state as named tensors, as checkpoints hold it, for trainings that write their own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of every parameter, under `NUMBER.NAME`."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, entry in state.items() for name, value in entry.items()}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore what `optimizer_tensors` gave; other names among the tensors are left alone."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, part = name.partition(".")
        if part and index.isdigit():
            state.setdefault(int(index), {})[part] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
