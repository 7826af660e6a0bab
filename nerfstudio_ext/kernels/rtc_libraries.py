"""Finds the libraries behind run-time compilation: NVRTC, which comes with CUDA builds of torch, and the driver.

Nothing is loaded at import. On Linux NVRTC lies in `nvidia/cu13/lib` or `nvidia/cuda_nvrtc/lib` beside torch (pip), in
`torch/lib` (bundled builds) or where the system keeps libraries (conda, distributions); on Windows in `torch\\lib`.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ..errors import UserError

OVERRIDE = "NSX_NVRTC"
"""Environment variable that names the NVRTC library to use, for unusual installations."""
_MAJORS = (13, 12)
"""CUDA generations whose NVRTC the kernels are tested with, newest first."""
_IS_WINDOWS = sys.platform == "win32"

Loader = Callable[[str], ctypes.CDLL]


class CudaUnavailable(UserError):
    """The machine cannot compile or run CUDA kernels; the text says what is missing."""


def library_folders(environ: Mapping[str, str] = os.environ) -> Iterator[Path]:
    """Folders that may hold NVRTC, best first: packages beside torch, torch's own, then toolkits."""
    for package in ("nvidia", "torch"):
        spec = importlib.util.find_spec(package)
        for root in (spec.submodule_search_locations or []) if spec is not None else []:
            if package == "torch":
                yield Path(root) / "lib"
                continue
            for part in ("cu13", "cuda_nvrtc"):
                yield from (Path(root, part, name) for name in ("lib", "bin", "bin/x86_64"))
    yield Path(sys.prefix) / ("Library/bin" if _IS_WINDOWS else "lib")
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if environ.get(variable):
            yield from (Path(environ[variable], name) for name in ("lib64", "bin", "bin/x64"))
    if not _IS_WINDOWS:
        yield Path("/usr/local/cuda/lib64")


def nvrtc_files(folder: Path, *, is_windows: bool = _IS_WINDOWS) -> list[Path]:
    """The NVRTC libraries of a folder, newest version first; its helper libraries have other names."""
    pattern = r"nvrtc64_(\d+)_\d+\.dll" if is_windows else r"libnvrtc\.so\.(\d+)(?:\.\d+)*"
    try:
        names = [(match, path) for path in folder.iterdir() if (match := re.fullmatch(pattern, path.name))]
    except OSError:
        return []
    return [path for _, path in sorted(names, key=lambda pair: (int(pair[0][1]), pair[1].name), reverse=True)]


def load_nvrtc(
    cuda_version: str | None,
    *,
    load: Loader = ctypes.CDLL,
    folders: Iterator[Path] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> ctypes.CDLL:
    """Load NVRTC, of torch's own CUDA generation where there are several.

    Args:
        cuda_version: What torch was built for, such as "13.0"; None for a CPU build.
        load: Loads a library by name.
        folders: Where to look; default: `library_folders`.
        environ: Environment variables.
    Raises:
        CudaUnavailable: if there is none, or none that loads.
    """
    if environ.get(OVERRIDE):
        return _load(environ[OVERRIDE], load, f"{OVERRIDE}={environ[OVERRIDE]}")
    folders = library_folders(environ) if folders is None else folders
    major = (cuda_version or "").partition(".")[0]
    files = [file for folder in folders for file in nvrtc_files(folder)]
    # Stable: within one generation the order of the folders stays.
    files.sort(key=lambda file: not re.search(rf"(?:\.so\.|nvrtc64_){major}", file.name) if major else False)
    reasons = []
    for name in [*map(str, files), *_system_names()]:
        try:
            if os.path.isabs(name):
                _make_helpers_known(Path(name).parent, load)
            return load(name)
        except OSError as error:
            if os.path.isabs(name):
                reasons.append(f"{name} does not load ({error})")
    what = reasons[0] if reasons else "NVRTC, the run-time compiler of CUDA, is not installed"
    raise CudaUnavailable(what, fix="Install a CUDA build of torch with pip, or `pip install nvidia-cuda-nvrtc`")


def load_driver(*, load: Loader = ctypes.CDLL) -> ctypes.CDLL:
    """Load the NVIDIA driver's library.

    Raises:
        CudaUnavailable: if there is none.
    """
    return _load("nvcuda.dll" if _IS_WINDOWS else "libcuda.so.1", load, "the NVIDIA driver")


def _make_helpers_known(folder: Path, load: Loader) -> None:
    """NVRTC loads a library of built-in functions by its bare name, which the system need not find beside it."""
    if _IS_WINDOWS:
        os.add_dll_directory(str(folder))  # type: ignore[attr-defined]
        return
    for helper in sorted(folder.glob("libnvrtc-builtins.so.*"), reverse=True):
        with contextlib.suppress(OSError):
            load(str(helper))


def _system_names() -> list[str]:
    """Names the system's own loader may know."""
    if _IS_WINDOWS:
        return [f"nvrtc64_{major}0_0.dll" for major in _MAJORS]
    return [f"libnvrtc.so.{major}" for major in _MAJORS]


def _load(name: str, load: Loader, what: str) -> ctypes.CDLL:
    try:
        return load(name)
    except OSError as error:
        raise CudaUnavailable(f"{what} does not load: {error}", fix="Install it, or use --device cpu") from error
