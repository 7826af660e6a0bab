"""Fields in the form the kernels read, remembered while the full-precision tensors stay as they are.

Tensors that are being trained are converted at every call: fused optimisers change them without telling. By its bytes
that is some 20 microseconds for the largest table.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass

import torch
from torch import Tensor

from .cuda_arguments import HalfField
from .cuda_launch import launcher
from .fused import FieldTensors

_KEPT = 4
"""A viewer shows one or two weight snapshots while training owns a third."""


@dataclass
class _Entry:
    sources: tuple[weakref.ref[Tensor], ...]
    versions: tuple[int, ...]
    half: HalfField

    def is_of(self, field: FieldTensors) -> bool:
        return all(source() is tensor for source, tensor in zip(self.sources, field.tensors, strict=True))


_entries: list[_Entry] = []
_lock = threading.Lock()


def prepared(field: FieldTensors) -> HalfField:
    """The half-precision form of a field's present values."""
    field = _contiguous(field)
    with _lock:
        # The addresses of tensors that are gone may belong to others now: only live references count.
        _entries[:] = [entry for entry in _entries if all(source() is not None for source in entry.sources)]
        found = next((entry for entry in _entries if entry.is_of(field)), None)
        versions = _versions(field)
        if found is None:
            found = _Entry(tuple(weakref.ref(tensor) for tensor in field.tensors), (), HalfField.empty(field))
            _entries.append(found)
            del _entries[:-_KEPT]
        if not versions or found.versions != versions:
            found.half.fill(launcher(field.table.device), field)
            found.versions = versions
        return found.half


def _versions(field: FieldTensors) -> tuple[int, ...]:
    """How often each tensor was modified in place; empty where that is not known."""
    if any(tensor.is_inference() or tensor.requires_grad for tensor in field.tensors):
        return ()
    return tuple(tensor._version for tensor in field.tensors)


def _contiguous(field: FieldTensors) -> FieldTensors:
    if all(tensor.is_contiguous() for tensor in field.tensors):
        return field
    table, d1, d2, c1, c2, c3 = (tensor.detach().contiguous() for tensor in field.tensors)
    return FieldTensors(field.layout, table, d1, d2, c1, c2, c3, field.aabb_scale)


def mark_modified(tensors: tuple[Tensor, ...]) -> None:
    """Say that kernels wrote into tensors, which torch cannot know."""
    for tensor in tensors:
        torch.autograd.graph.increment_version(tensor)
