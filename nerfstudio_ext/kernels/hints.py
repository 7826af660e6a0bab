"""What a renderer may tell the kernels about the picture it is making: its size, and whether anybody still wants it.

Results do not depend on it: a device takes pixels in tiles when it knows the picture's size, and leaves a picture that
was cancelled unfinished.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor


class Cancellable(Protocol):
    """A token that tells when work became useless."""

    @property
    def is_cancelled(self) -> bool:
        """Whether it was."""

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call this at once when it is, from whatever thread."""


class Hints:
    """Of one picture in one thread.

    Args:
        size: Width and height; 0 where rays form no picture.
        token: Tells when the picture is cancelled; None never is.
    """

    def __init__(self, size: tuple[int, int] = (0, 0), token: Cancellable | None = None) -> None:
        self.size = size
        self._token = token
        self._flag: Tensor | None = None

    def cancel_address(self, device: torch.device) -> int | None:
        """Address of a word that becomes 1 when the picture is cancelled; None where nobody can cancel it."""
        if self._token is None:
            return None
        if self._flag is None:
            # Page-locked memory has one address for host and device: a running kernel sees what a thread writes.
            flag = torch.zeros(1, dtype=torch.int32, pin_memory=device.type == "cuda")
            self._token.on_cancel(functools.partial(_raise_flag, flag))
            if self._token.is_cancelled:
                flag.fill_(1)
            self._flag = flag
        return self._flag.data_ptr()


def _raise_flag(flag: Tensor) -> None:
    flag.fill_(1)


_of_thread = threading.local()
_NONE = Hints()


def hints() -> Hints:
    """The present hints of this thread."""
    found: Hints = getattr(_of_thread, "hints", _NONE)
    return found


@contextlib.contextmanager
def picture(width: int, height: int, token: Cancellable | None = None) -> Iterator[None]:
    """Rays rendered inside belong to one picture, row after row.

    The word that says "cancelled" lives as long as the block: wait for the device before leaving it.
    """
    before = hints()
    _of_thread.hints = Hints((width, height), token)
    try:
        yield
    finally:
        _of_thread.hints = before
