"""Running out of memory as something that can be helped: recognised whoever says it, and answered with less at once."""

from __future__ import annotations

import errno
import gc

import torch

HALVINGS = 6
"""A sixty-fourth of the work at once; what does not fit then would take for ever if it did."""
_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory", "bad_alloc")
"""What torch's allocators say in a plain RuntimeError; only that of CUDA has a class of its own."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on the CPU or on a device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _WORDS)


def release_memory() -> None:
    """Give back what is no longer used, before the work is tried again with less at once."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
