"""Runs the CUDA kernels on the CPU: the same sources, compiled by g++ with a stand-in for the machine.

What it shows and what not stands in `cuda_on_host.h`. Libraries are kept in the temporary folder under a hash of all
that goes into them, so that only the first run compiles.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from nerfstudio_ext.kernels import cuda_params

HERE = Path(__file__).parent
SOURCES = Path(cuda_params.__file__).parent / "csrc"
FLAGS = ("-std=c++17", "-O1", "-ffp-contract=off", "-fno-strict-aliasing", "-fPIC", "-shared", "-DCUDA_ON_HOST")


def missing() -> str:
    """Why the kernels cannot run here; empty when they can."""
    if platform.machine() not in ("x86_64", "AMD64") or os.name != "posix":
        return "the stand-in for a GPU switches stacks in x86-64 assembly for Linux"
    return "" if shutil.which("g++") else "g++ is not installed"


class HostKernels:
    """The kernels of one source file, compiled for the CPU.

    Args:
        source: File name in `csrc/`.
        defines: Macros, as `-DNAME=VALUE`.
    """

    def __init__(self, source: str, defines: tuple[str, ...] = ()) -> None:
        self.structures = cuda_params.KERNELS[source]
        self.library = ctypes.CDLL(str(_build(source, defines)))

    def launch(self, kernel: str, arguments: ctypes.Structure, blocks: int, threads: int, shared: int = 0) -> None:
        """Run a kernel to its end; fails when its threads wait for each other for ever."""
        assert type(arguments) is self.structures[kernel]
        result = getattr(self.library, f"launch_{kernel}")(ctypes.byref(arguments), blocks, threads, shared)
        assert result == 0, f"{kernel}: some threads missed a barrier or a warp operation"

    def structure_sizes(self) -> list[int]:
        """Sizes of the argument structures as the compiler lays them out, in the order of `STRUCTURES`."""
        return list((ctypes.c_uint32 * len(cuda_params.STRUCTURES)).in_dll(self.library, "structure_sizes"))


@cache
def host_kernels(source: str, defines: tuple[str, ...] = ()) -> HostKernels:
    """`HostKernels`, compiled at most once."""
    return HostKernels(source, defines)


def _build(source: str, defines: tuple[str, ...]) -> Path:
    kernels = " ".join(f"X({name},{type_.__name__})" for name, type_ in cuda_params.KERNELS[source].items())
    command = [
        "g++",
        *FLAGS,
        *defines,
        f'-DKERNEL_SOURCE="{source}"',
        f"-DKERNELS={kernels}",
        f"-I{HERE}",
        f"-I{SOURCES}",
    ]
    digest = hashlib.sha256("\0".join(command).encode())
    for path in sorted([*HERE.glob("*.h"), *HERE.glob("*.cpp"), *SOURCES.glob("*.cuh"), SOURCES / source]):
        digest.update(path.read_bytes())
    folder = Path(tempfile.gettempdir()) / f"nsx-cuda-on-host-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"{Path(source).stem}-{digest.hexdigest()[:24]}.so"
    if not library.exists():
        part = library.with_suffix(f".{os.getpid()}")
        done = subprocess.run(
            [*command, "-o", str(part), str(HERE / "cuda_on_host.cpp")], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[:4000]
        part.replace(library)
    return library
