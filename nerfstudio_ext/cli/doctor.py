"""`nsx doctor`: what this machine can do, and which back end every kernel will use, and why; or how a run is."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from .. import __version__
from .console import Output
from .doctor_run import examine
from .environment import usable_cores
from .options import CommonOptions

_PACKAGES = ("torch", "numba", "numpy", "pycolmap", "viser", "pillow", "imageio-ffmpeg", "safetensors", "torchmetrics")
_EXTRAS = {"pillow-heif": "heic", "nerfacc": "cuda", "trimesh": "mesh", "tensorboard": "tensorboard"}


@dataclass(frozen=True)
class DoctorOptions(CommonOptions):
    """Options of `nsx doctor`."""

    run: tyro.conf.Positional[Path | None] = None
    """Look over this run instead of the machine: which checkpoints verify, how its last session ended, what to do."""


def options_for(argv: list[str]) -> tuple[type[DoctorOptions], list[str]]:
    """One kind of options."""
    return DoctorOptions, argv


def run(options: DoctorOptions, out: Output) -> int:
    """Print the report; 0 when everything that training on photos needs is there (or the run is sound), else 2."""
    if options.run is not None:
        return examine(options.run, out)
    packages = {name: _version(name) for name in _PACKAGES}
    missing = [name for name, version in packages.items() if version is None]
    machine = _machine()
    out.box("Machine", machine)
    out.box("Packages", {name: version or "MISSING: pip install it" for name, version in packages.items()})
    out.box("Optional", {name: _version(name) or f"not installed (extra [{extra}])" for name, extra in _EXTRAS.items()})
    video = _ffmpeg()
    device = _device() if "torch" not in missing else "torch is missing"
    cuda_kernels = _cuda_kernels() if "torch" not in missing else "torch is missing"
    out.box("Devices and tools", {"device": device, "CUDA kernels": cuda_kernels, "video": video})
    table = _kernel_table(out) if not missing else []
    out.result(
        {
            "version": __version__,
            "machine": machine,
            "packages": packages,
            "device": device,
            "cuda_kernels": cuda_kernels,
            "video": video,
            "kernels": table,
            "missing": missing,
        }
    )
    if missing:
        out.say(f"\nmissing: {', '.join(missing)}. Install them with pip, or run `make venv` in a checkout.")
        return 2
    out.say("\nReady: `nsx train FOLDER_OF_PHOTOS` works on this machine.")
    return 0


def _machine() -> dict[str, object]:
    total, available = _memory_gib()
    disk = shutil.disk_usage(".").free / 2**30
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "cores": f"{usable_cores()} used of {os.cpu_count()}",
        "threading": f"numba layer {os.environ.get('NUMBA_THREADING_LAYER', 'default')}, "
        f"{os.environ.get('NUMBA_NUM_THREADS', '?')} threads",
        "memory": f"{available:.1f} GiB free of {total:.1f} GiB" if total else "unknown",
        "disk": f"{disk:.1f} GiB free here",
    }


def _memory_gib() -> tuple[float, float]:
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        return os.sysconf("SC_PHYS_PAGES") * page / 2**30, os.sysconf("SC_AVPHYS_PAGES") * page / 2**30
    except (AttributeError, ValueError, OSError):
        return 0.0, 0.0


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _ffmpeg() -> str:
    try:
        import imageio_ffmpeg
    except ImportError:
        return "imageio-ffmpeg is missing: no video in or out"
    try:
        return f"ffmpeg {imageio_ffmpeg.get_ffmpeg_version()}"
    except (RuntimeError, OSError) as error:
        return f"ffmpeg not found ({error}): no video in or out"


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name(0)} (CUDA {torch.version.cuda})"
    built = f"this torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "this torch is a CPU build"
    return f"CPU; no CUDA device in use: {built}"


def _cuda_kernels() -> str:
    """Whether our own kernels can be compiled and run, and with what."""
    from ..kernels import rtc

    reason = rtc.absence()
    if reason:
        return f"not usable: {reason}"
    tools = rtc.toolchain()
    major, minor = tools.nvrtc.version
    driver = tools.driver.version
    return (
        f"compiled by NVRTC {major}.{minor} at first use, driver for CUDA {driver // 1000}.{driver % 1000 // 10}, "
        f"kept in {tools.cache.folder}"
    )


def _kernel_table(out: Output) -> list[dict[str, Any]]:
    """Print which back end runs each operation; return every row as data."""
    import torch

    from ..kernels import table

    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = table()
    lines: dict[str, object] = {}
    for op in dict.fromkeys(row.op for row in rows):
        of_op = [row for row in rows if row.op == op]
        chosen = next((row.backend for row in of_op if device in row.auto_for), "none")
        usable = [f"{row.backend} ({row.reason})" if row.reason else row.backend for row in of_op if row.is_available]
        lines[op] = f"{chosen:10} usable: {', '.join(usable)}"
    out.box(f"Kernels: what 'auto' takes on this machine ({device})", lines)
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if not row.is_available:
            reasons.setdefault(f"{row.backend}: {row.reason}", []).append(row.op)
    out.say("\nNot usable here")
    for reason, ops in reasons.items():
        out.say(f"  {reason}  ({'every operation' if len(ops) == len(lines) else ', '.join(ops)})")
    return [{**vars(row), "auto_for": list(row.auto_for)} for row in rows]
