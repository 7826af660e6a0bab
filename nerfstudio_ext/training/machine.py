"""What a run was made on, for its report and log."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from .. import __version__

_PACKAGES = ("torch", "numba", "numpy", "viser", "pycolmap")


def describe_machine() -> dict[str, str]:
    """Processor, memory, system and versions, as pairs for people."""
    facts = {"Processor": _processor(), "Cores": f"{os.cpu_count()} logical, training used {torch.get_num_threads()}"}
    memory = _memory_gb()
    if memory:
        facts["Memory"] = f"{memory:.1f} GB"
    facts["GPU"] = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    facts["System"] = f"{platform.system()} {platform.release()}, {platform.machine()}"
    facts["Python"] = platform.python_version()
    facts["nerfstudio-ext"] = __version__
    for name in _PACKAGES:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            continue
    return facts


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def _memory_gb() -> float:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        return 0.0
