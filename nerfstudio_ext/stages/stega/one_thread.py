"""Arithmetic on one core: what extraction computes is small, and must not wait for a second core that is busy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to this thread.

    A picture of 400 x 400 takes 30 ms on one core, and 900 ms on two of which others use one as well, because threads
    wait for each other after every layer.
    """
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
