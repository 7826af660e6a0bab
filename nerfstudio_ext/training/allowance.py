"""What a method may take while it is built for stored weights: settings may be forged to eat all memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..errors import UserError

_SPARE_NUMBERS = 2**24
"""Beyond eight times the largest stored tensor, at once."""
_MAKERS = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.arange)


class Allowance(TorchFunctionMode):
    """Refuses to make tensors far larger than the stored ones. Use it as a context manager around building.

    Args:
        weights: The stored tensors.
        path: Where the settings lie, for the message.
    """

    def __init__(self, weights: Mapping[str, Tensor], path: Path) -> None:
        super().__init__()
        largest = max((tensor.numel() for tensor in weights.values()), default=0)
        self._most, self._path = 8 * largest + _SPARE_NUMBERS, path

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Look at the size that is asked for."""
        if func in _MAKERS:
            sizes = args[0] if args and isinstance(args[0], (tuple, list)) else args
            n = math.prod(size for size in sizes if isinstance(size, int))
            if n > self._most:
                what = f"the settings ask for {n / 1e6:.0f} million numbers at once, the weights hold far fewer"
                raise UserError(what, where=self._path, fix="Restore its config.json, or train or export it again")
        return func(*args, **(kwargs or {}))
