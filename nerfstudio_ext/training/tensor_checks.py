"""Looking for damage in tensors: values that are not finite, and checksums of each tensor in a safetensors file."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..tensor_files import MAX_HEADER_BYTES


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no value is NaN or infinite; one pass over the memory and no temporary.

    The sum of squares is finite exactly when all values are, up to values beyond about 1e19 in float32, which
    count as infinite here: training is past help by then.
    """
    for tensor in tensors:
        flat = tensor.detach().reshape(-1)
        if tensor.is_floating_point() and not math.isfinite(torch.dot(flat, flat).item()):
            return False
    return True


def largest_rms(tensors: Iterable[Tensor]) -> float:
    """The largest root mean square of any of the tensors."""
    largest = 0.0
    for tensor in tensors:
        flat = tensor.detach().reshape(-1)
        largest = max(largest, float(torch.dot(flat, flat)) / max(flat.numel(), 1))
    return math.sqrt(largest)


def first_non_finite(tensors: Mapping[str, Tensor]) -> str:
    """A phrase naming the first tensor with NaN or infinite values, or ""."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            n_bad = int((~torch.isfinite(tensor)).sum())
            return f"'{name}' ({n_bad} of {tensor.numel()} values)"
    return ""


def tensor_checksums(data: bytes) -> dict[str, int]:
    """CRC-32 of each tensor's bytes in a safetensors file; empty when the header cannot be read."""
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= min(MAX_HEADER_BYTES, len(data) - 8):
        return {}
    view = memoryview(data)[8 + length :]
    try:
        header = json.loads(data[8 : 8 + length])
        spans = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
        return {name: zlib.crc32(view[start:end]) for name, (start, end) in spans.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
