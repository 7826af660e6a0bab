"""Timing on the device: medians over repeated calls, with the second-level cache warm or emptied before each."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

FLUSH_BYTES = 256 << 20
"""More than the second-level cache of any device."""


def milliseconds(
    call: Callable[[], object], *, repeats: int = 50, warm_up: int = 20, cold: bool = False
) -> tuple[float, float]:
    """Median and smallest time of a call on the device, in ms.

    Args:
        call: Queues work.
        repeats: Timed calls.
        warm_up: Calls before.
        cold: Overwrite the second-level cache before each timed call.
    """
    for _ in range(warm_up):
        call()
    junk = torch.empty(FLUSH_BYTES // 4, device="cuda") if cold else None
    pairs = []
    for _ in range(repeats):
        if junk is not None:
            junk.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        pairs.append((begin, end))
    torch.cuda.synchronize()
    times = [begin.elapsed_time(end) for begin, end in pairs]
    return statistics.median(times), min(times)


def few(call: Callable[[], object], seconds: float = 3.0) -> float:
    """Median of as many calls as fit into some seconds, at least 2, in ms: for slow baselines."""
    first, _ = milliseconds(call, repeats=1, warm_up=1)
    repeats = max(2, min(20, int(1000 * seconds / max(first, 1e-3))))
    return milliseconds(call, repeats=repeats, warm_up=0)[0]
