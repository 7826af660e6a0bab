"""The mean of the gradients of several processes: through memory they share on one machine, else by collectives."""

from __future__ import annotations

import logging
import math
import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from .team import Team

logger = logging.getLogger(__name__)
_SHARED_FOLDER = Path("/dev/shm")
"""Memory that looks like files; elsewhere a shared file would be written to a disk at every step."""


class GradientMean(Protocol):
    """Averages the gradients of all processes, in two moves with a meeting of all in between."""

    def put(self, weights: Sequence[float]) -> None:
        """Offer this process's gradients.

        Args:
            weights: What the gradients of each process count; they sum to 1.
        """

    def take(self) -> bool:
        """Replace every parameter's gradient by the weighted sum over all processes, when all have put theirs.

        Returns:
            Whether all sums are finite: the same answer everywhere.
        """


def gradient_mean(team: Team, parameters: Sequence[nn.Parameter]) -> GradientMean:
    """The fastest way for these processes to average gradients of these parameters."""
    is_plain = all(p.device.type == "cpu" and p.dtype == torch.float32 for p in parameters)
    if team.is_one_host and is_plain:
        n_bytes = 4 * (team.count + 1) * sum(p.numel() for p in parameters)
        memory = _shared_memory(team, n_bytes)
        if memory is not None:
            return SharedMean(team, parameters, memory)
        logger.info("no shared memory of %d MB: gradients are sent", n_bytes >> 20)
    return SentMean(team, parameters)


class SharedMean:
    """Each process copies its gradients into shared memory and sums its share of all of them.

    The optimiser then reads the sums where they are. Nothing is sent but a few numbers, which also keep the processes
    from reading too early: 10 MB of gradients take four milliseconds of processor time. Making them there in the first
    place would spare the copy and gain nothing: shared memory rarely has large pages, and scattering wants them.

    Args:
        team: The processes.
        parameters: Float32, on the CPU.
        memory: Zeros, one row per process and one for the sums, seen by all.
    """

    def __init__(self, team: Team, parameters: Sequence[nn.Parameter], memory: Tensor) -> None:
        self._team, self._parameters = team, parameters
        rows = memory.reshape(team.count + 1, -1)
        self._rows, self._sums = rows[:-1], rows[-1]
        self._own = list(_views(rows[team.index], parameters))
        self._weights: Sequence[float] = ()

    def put(self, weights: Sequence[float]) -> None:
        """See `GradientMean`."""
        self._weights = weights
        for parameter, own in zip(self._parameters, self._own, strict=True):
            if parameter.grad is None:
                own.zero_()
            else:
                own.copy_(parameter.grad)

    def take(self) -> bool:
        """See `GradientMean`."""
        part = self._team.part(self._sums.numel())
        sums, rows, weights = self._sums[part], self._rows[:, part], self._weights
        if len(weights) == 2:
            torch.lerp(rows[0], rows[1], weights[1], out=sums)  # weights sum to 1: one pass over the memory
        else:
            torch.mul(rows[0], weights[0], out=sums)
            for row, weight in zip(rows[1:], weights[1:], strict=True):
                sums.add_(row, alpha=weight)
        is_finite = math.isfinite(torch.dot(sums, sums).item())
        (n_bad,) = self._team.sum([float(not is_finite)])  # all sums are written
        for parameter, mean in zip(self._parameters, _views(self._sums, self._parameters), strict=True):
            parameter.grad = mean
        return n_bad == 0


class SentMean:
    """All gradients in one block, summed by the collective operation of the device."""

    def __init__(self, team: Team, parameters: Sequence[nn.Parameter]) -> None:
        self._team, self._parameters = team, parameters
        self._block = torch.zeros(sum(p.numel() for p in parameters), device=parameters[0].device)

    def put(self, weights: Sequence[float]) -> None:
        """See `GradientMean`."""
        for parameter, own in zip(self._parameters, _views(self._block, self._parameters), strict=True):
            if parameter.grad is None:
                own.zero_()
            else:
                torch.mul(parameter.grad, weights[self._team.index], out=own)

    def take(self) -> bool:
        """See `GradientMean`."""
        self._team.add_up(self._block)
        for parameter, mean in zip(self._parameters, _views(self._block, self._parameters), strict=True):
            parameter.grad = mean
        return math.isfinite(torch.dot(self._block, self._block).item())


def _views(row: Tensor, parameters: Sequence[nn.Parameter]) -> Iterator[Tensor]:
    start = 0
    for parameter in parameters:
        yield row[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()


def _shared_memory(team: Team, n_bytes: int) -> Tensor | None:
    """Zeros that all processes of one machine see as float32, or None where there is no room for them.

    The file loses its name before anybody uses it, so that nothing is left behind however the processes end.
    """
    path = _make_file(n_bytes) if team.is_leading else None
    if team.is_leading:
        team.send(os.fsencode(path or ""))
    else:
        path = Path(os.fsdecode(team.receive()) or ".")
    memory = None
    if path is not None and path.is_file():
        with path.open("r+b") as file:
            memory = mmap.mmap(file.fileno(), n_bytes)
    (n_ready,) = team.sum([float(memory is not None)])
    if team.is_leading and path is not None:
        path.unlink(missing_ok=True)
    if memory is None or n_ready < team.count:
        return None
    return torch.from_numpy(np.frombuffer(memory, np.float32))


def _make_file(n_bytes: int) -> Path | None:
    try:
        number, name = tempfile.mkstemp(prefix="nsx-gradients-", dir=_SHARED_FOLDER)
    except OSError:
        return None
    path = Path(name)
    try:
        # Reserved, not only promised: touching memory that is not there would end the process without a word.
        os.posix_fallocate(number, 0, n_bytes)
    except OSError:
        path.unlink(missing_ok=True)
        return None
    finally:
        os.close(number)
    return path
