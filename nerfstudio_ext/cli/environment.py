"""Thread settings of the numerical libraries; they are read once, when numba and torch are first imported."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

_CPU_INFO = Path("/sys/devices/system/cpu")
_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """Cores this process may keep busy: its affinity mask, physical cores only, within the container's quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    allowed = set(affinity(0)) if affinity is not None else set(range(os.cpu_count() or 1))
    return max(1, min(_physical(allowed), _quota(len(allowed))))


def configure_threads(environ: MutableMapping[str, str] = os.environ) -> None:
    """Choose the threading layer and thread counts of numba and torch; what the user has set stays.

    numba's default layer, workqueue, aborts the process when two threads run parallel kernels at once, which the
    viewer and the trainer do; the OpenMP layer allows it.
    """
    n_here = environ.get("LOCAL_WORLD_SIZE", "1")  # processes that torchrun starts on this machine share its cores
    cores = str(max(1, usable_cores() // max(1, int(n_here) if n_here.isdecimal() else 1)))
    environ.setdefault("NUMBA_THREADING_LAYER", "omp")
    environ.setdefault("NUMBA_NUM_THREADS", cores)
    environ.setdefault("OMP_NUM_THREADS", cores)


def _physical(cpus: set[int]) -> int:
    """Physical cores among logical ones: two hyper-threads share one set of arithmetic units."""
    cores = set()
    for cpu in cpus:
        try:
            siblings = (_CPU_INFO / f"cpu{cpu}/topology/thread_siblings_list").read_text()
        except OSError:
            return len(cpus)
        cores.add(siblings.strip())
    return len(cores)


def _quota(default: int) -> int:
    try:
        quota, period = _CGROUP_QUOTA.read_text().split()
        return max(1, round(int(quota) / int(period)))
    except (OSError, ValueError):
        return default
