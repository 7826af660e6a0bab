"""What the machine can do at best: copies, products, random reads and random sums, and what a launch costs."""

from __future__ import annotations

import functools
import platform
import subprocess
import sys
import time
from typing import Any

import numpy as np
import torch

from .timing import milliseconds

_TABLE_BYTES = 24 << 20
_PRODUCT = 8192


def machine() -> dict[str, Any]:
    """Names and versions, and what the device reports about itself."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "device": properties.name,
        "architecture": f"sm_{properties.major}{properties.minor}",
        "processors": properties.multi_processor_count,
        "memory_gib": properties.total_memory / 2**30,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "numpy": np.__version__,
        "python": sys.version.split()[0],
        "system": platform.platform(),
        "nvidia_smi": clocks(),
    }


def clocks() -> str:
    """Clocks, temperature and power as the driver's own tool reports them; read only."""
    fields = "driver_version,clocks.sm,clocks.mem,temperature.gpu,power.draw"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"not read: {error}"
    return " ".join(done.stdout.split()) or "not read"


def ceilings() -> dict[str, Any]:
    """The measured ceilings that kernels are compared with."""
    source = torch.empty(1 << 28, device="cuda")
    target = torch.empty_like(source)
    copy, _ = milliseconds(functools.partial(target.copy_, source), repeats=10, warm_up=3)
    del source, target
    a, b = (torch.randn(_PRODUCT, _PRODUCT, device="cuda", dtype=torch.float16) for _ in range(2))
    product, _ = milliseconds(functools.partial(torch.matmul, a, b), repeats=10, warm_up=3)
    found: dict[str, Any] = {
        "copy_gb_per_s": 2 * 4 * (1 << 28) / copy / 1e6,
        "half_tflops": 2 * _PRODUCT**3 / product / 1e9,
    }
    del a, b
    generator = torch.Generator(device="cuda").manual_seed(0)
    n = 1 << 25
    for width in (4, 8):
        rows = _TABLE_BYTES // width
        index = torch.randint(rows, (n,), device="cuda", generator=generator)
        table = torch.randn(rows, width // 4, device="cuda")
        gather, _ = milliseconds(functools.partial(table.index_select, 0, index), repeats=10, warm_up=3)
        found[f"gather_{width}_bytes_g_per_s"] = n / gather / 1e6
    index = torch.randint(6 << 20, (n,), device="cuda", generator=generator)
    values, sums = torch.ones(n, 2, device="cuda"), torch.zeros(6 << 20, 2, device="cuda")
    add, _ = milliseconds(functools.partial(sums.index_add_, 0, index, values), repeats=5, warm_up=2)
    found["torch_index_add_pairs_g_per_s"] = n / add / 1e6
    found["torch_launch_us"] = _launch_cost()
    return found


def _launch_cost() -> float:
    """Host time of one small torch operation, in microseconds."""
    x = torch.zeros(32, device="cuda")
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(1000):
        x.add_(1)
    spent = time.perf_counter() - began
    torch.cuda.synchronize()
    return spent * 1e3
