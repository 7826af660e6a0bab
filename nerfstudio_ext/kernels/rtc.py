"""Run-time compilation for CUDA devices: source text in, launchable kernels out. Knows nothing about rendering.

The parts: `rtc_libraries` finds NVRTC and the driver, `rtc_compile` compiles, `rtc_cache` keeps results on disk,
`rtc_driver` loads and launches. Kernels run on torch's current stream in torch's own context, so that they order
themselves with torch's operations and can be captured in a CUDA graph.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from .rtc_cache import DiskCache
from .rtc_compile import Nvrtc, Program, Resources, compiled, key_of, resources_of, target_for
from .rtc_driver import Driver
from .rtc_libraries import CudaUnavailable, load_driver, load_nvrtc

MIN_ARCHITECTURE = 75
"""First architecture with the tensor-core instructions the kernels use."""

_INT32 = range(-(1 << 31), 1 << 31)


@dataclass(frozen=True)
class Toolchain:
    """Compiler, driver and cache that work together."""

    nvrtc: Nvrtc
    driver: Driver
    cache: DiskCache


@functools.cache
def toolchain() -> Toolchain:
    """The machine's own toolchain.

    Raises:
        CudaUnavailable: if a library is missing.
    """
    return Toolchain(Nvrtc(load_nvrtc(torch.version.cuda)), Driver(load_driver()), DiskCache())


def architecture_of(device: torch.device) -> int:
    """Architecture of a device, such as 90 for sm_90."""
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


@functools.cache
def absence() -> str:
    """Why kernels cannot be compiled and run on the present device; empty when they can. Looks once."""
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    if torch.version.cuda is None:
        return "this torch is not built for NVIDIA devices"
    architecture = architecture_of(torch.device("cuda"))
    if architecture < MIN_ARCHITECTURE:
        return f"the device is sm_{architecture}, the CUDA kernels need sm_{MIN_ARCHITECTURE} or newer"
    try:
        target_for(architecture, toolchain().nvrtc.architectures())
    except (UserError, OSError, AttributeError) as error:  # AttributeError: a library without the functions we call
        return error.what if isinstance(error, UserError) else str(error)
    return ""


class Kernel:
    """One kernel, loaded on one device.

    Attributes:
        name: Its name in the source.
        device: Where it runs.
    """

    def __init__(self, name: str, function: Any, device: torch.device, driver: Driver) -> None:
        self.name, self.device = name, device
        self._function, self._driver = function, driver
        self._shared_allowed = 0

    def __call__(
        self, grid: int | Sequence[int], block: int | Sequence[int], *arguments: object, shared_bytes: int = 0
    ) -> None:
        """Queue the kernel on torch's current stream.

        Args:
            grid: Blocks; a grid without blocks does nothing.
            block: Threads per block.
            arguments: Values in the order of the kernel's parameters: tensors (as pointers; None is a null pointer),
                int (32 bits), float (32 bits), and ctypes values and structures as they are.
            shared_bytes: Dynamic shared memory per block.
        Raises:
            ValueError: for a tensor that is not contiguous or lies elsewhere, or a number that does not fit.
            DriverError: if the driver refuses.
        """
        blocks, threads = _three(grid), _three(block)
        if 0 in blocks:
            return
        values = [self._value(index, argument) for index, argument in enumerate(arguments)]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        if shared_bytes > self._shared_allowed:
            self._driver.allow_shared(self._function, shared_bytes)
            self._shared_allowed = shared_bytes
        with _on(self.device):
            self._driver.enter(self.device.index or 0)
            stream = _stream_of(self.device)
            self._driver.launch(self._function, blocks, threads, shared_bytes, stream, pointers)

    def attributes(self) -> dict[str, int]:
        """Registers, local and static shared memory, as loaded."""
        return self._driver.attributes(self._function)

    def blocks_per_processor(self, threads: int, shared_bytes: int = 0) -> int:
        """Blocks that fit on one multiprocessor at a time."""
        if shared_bytes > self._shared_allowed:
            self._driver.allow_shared(self._function, shared_bytes)
            self._shared_allowed = shared_bytes
        return self._driver.blocks_per_processor(self._function, threads, shared_bytes)

    def _value(self, index: int, argument: object) -> Any:
        if isinstance(argument, Tensor):
            if argument.device != self.device or not argument.is_contiguous():
                found = f"{list(argument.shape)} on {argument.device}, strides {argument.stride()}"
                raise ValueError(f"{self.name}: argument {index} must be contiguous on {self.device}, got {found}")
            return ctypes.c_void_p(argument.data_ptr())
        if argument is None:
            return ctypes.c_void_p()
        if isinstance(argument, int):
            if argument not in _INT32:
                raise ValueError(f"{self.name}: argument {index} is {argument}, beyond 32 bits")
            return ctypes.c_int32(argument)
        if isinstance(argument, float):
            return ctypes.c_float(argument)
        return argument


class Module:
    """The kernels of one program on one device, compiled when made.

    Args:
        program: What to compile.
        device: Where it shall run.
        tools: Compiler and driver; default: the machine's own.
    Raises:
        CudaUnavailable: if the machine has no compiler or driver.
        CompileError: if the program is refused.
    """

    def __init__(self, program: Program, device: torch.device, tools: Toolchain | None = None) -> None:
        tools = tools or toolchain()
        self.device = device
        self._driver = tools.driver
        result = compiled(program, architecture_of(device), tools.nvrtc, tools.cache)
        self.resources: dict[str, Resources] = resources_of(result.log)
        with _on(device):
            self._driver.enter(device.index or 0)
            self._handle = self._driver.load(result.code)
        self._kernels: dict[str, Kernel] = {}

    def __getitem__(self, name: str) -> Kernel:
        """A kernel by its name."""
        kernel = self._kernels.get(name)
        if kernel is None:
            with _on(self.device):
                self._driver.enter(self.device.index or 0)
                function = self._driver.function(self._handle, name)
            kernel = self._kernels[name] = Kernel(name, function, self.device, self._driver)
        return kernel


_modules: dict[tuple[str, torch.device], Module] = {}
_lock = threading.Lock()


def module(program: Program, device: torch.device) -> Module:
    """The loaded kernels of a program on a device; compiled and loaded at the first call of the process."""
    device = torch.device(device.type, device.index if device.index is not None else torch.cuda.current_device())
    identity = (key_of(program, "", (0, 0)), device)
    with _lock:  # two threads that need it at once compile it once
        if identity not in _modules:
            _modules[identity] = Module(program, device)
        return _modules[identity]


def _three(sizes: int | Sequence[int]) -> tuple[int, int, int]:
    given = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    x, y, z = (*given, 1, 1)[:3]
    return x, y, z


def _on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    if device.type == "cuda" and torch.cuda.is_available() and torch.cuda.device_count() > 1:
        return torch.cuda.device(device)
    return contextlib.nullcontext()


def _stream_of(device: torch.device) -> int:
    return int(torch.cuda.current_stream(device).cuda_stream)


__all__ = ["CudaUnavailable", "Kernel", "Module", "Program", "Toolchain", "absence", "module", "toolchain"]
