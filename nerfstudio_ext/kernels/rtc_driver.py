"""The few functions of the CUDA driver that load machine code and start kernels, beside torch in its own context."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from typing import Any

from ..errors import UserError

_MAX_DYNAMIC_SHARED = 8
_SHARED_PER_PROCESSOR, _SHARED_PER_BLOCK = 81, 97
_ATTRIBUTES = {"shared_bytes": 1, "local_bytes": 3, "registers": 4}
_STATIC_LIMIT = 48 << 10
"""Dynamic shared memory above this must be asked for by function."""


class DriverError(UserError):
    """The driver refused; the text holds its own name for the reason."""


class Driver:
    """Functions of the driver library, checked.

    Args:
        library: The loaded library.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        self._contexts: dict[int, ctypes.c_void_p] = {}
        self._of_thread = threading.local()
        self._call("cuInit", 0)

    @property
    def version(self) -> int:
        """CUDA version the driver supports, such as 13000."""
        version = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(version))
        return version.value

    def shared_memory(self, device: int) -> tuple[int, int]:
        """Bytes of shared memory that one block may ask for, and that a multiprocessor has."""
        handle = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(handle), device)
        found = []
        for number in (_SHARED_PER_BLOCK, _SHARED_PER_PROCESSOR):
            value = ctypes.c_int()
            self._call("cuDeviceGetAttribute", ctypes.byref(value), number, handle)
            found.append(value.value)
        return found[0], found[1]

    def enter(self, device: int) -> None:
        """Make the context that torch uses on a device current in this thread."""
        if getattr(self._of_thread, "device", None) == device and len(self._contexts) == 1:
            return  # with one device nobody changes it
        if device not in self._contexts:
            handle, context = ctypes.c_int(), ctypes.c_void_p()
            self._call("cuDeviceGet", ctypes.byref(handle), device)
            self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), handle)
            self._contexts[device] = context
        self._call("cuCtxSetCurrent", self._contexts[device])
        self._of_thread.device = device

    def load(self, code: bytes) -> ctypes.c_void_p:
        """Load machine code or PTX into the current context; it stays for the life of the process."""
        module = ctypes.c_void_p()
        self._call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(code + b"\0"))
        return module

    def function(self, module: ctypes.c_void_p, name: str) -> ctypes.c_void_p:
        """A kernel of a module by its unmangled name."""
        function = ctypes.c_void_p()
        self._call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
        return function

    def attributes(self, function: ctypes.c_void_p) -> dict[str, int]:
        """Registers and memory a loaded kernel takes."""
        found = {}
        for name, number in _ATTRIBUTES.items():
            value = ctypes.c_int()
            self._call("cuFuncGetAttribute", ctypes.byref(value), number, function)
            found[name] = value.value
        return found

    def allow_shared(self, function: ctypes.c_void_p, n_bytes: int) -> None:
        """Let a kernel use so much dynamic shared memory."""
        if n_bytes > _STATIC_LIMIT:
            self._call("cuFuncSetAttribute", function, _MAX_DYNAMIC_SHARED, n_bytes)

    def blocks_per_processor(self, function: ctypes.c_void_p, threads: int, shared_bytes: int) -> int:
        """Blocks of a kernel that fit on one multiprocessor at a time."""
        count = ctypes.c_int()
        size = ctypes.c_size_t(shared_bytes)
        self._call("cuOccupancyMaxActiveBlocksPerMultiprocessor", ctypes.byref(count), function, threads, size)
        return count.value

    def launch(
        self,
        function: ctypes.c_void_p,
        grid: Sequence[int],
        block: Sequence[int],
        shared_bytes: int,
        stream: int,
        arguments: Any,
    ) -> None:
        """Queue a kernel on a stream; `arguments` is an array of pointers to the values."""
        self._call(
            "cuLaunchKernel", function, *grid, *block, shared_bytes, ctypes.c_void_p(stream), arguments, None
        )  # fmt: skip

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            raise DriverError(f"{name} failed: {self._error(status)}", fix=_advice(status))

    def _error(self, status: int) -> str:
        text = ctypes.c_char_p()
        try:
            self._library.cuGetErrorString(status, ctypes.byref(text))
        except AttributeError:
            return f"error {status}"
        return text.value.decode(errors="replace") if text.value else f"error {status}"


def _advice(status: int) -> str:
    known = {
        2: "Free memory on the device, or train with fewer samples (--samples-per-batch)",
        209: "The driver is older than this torch: update it",
        222: "The driver is older than this torch: update it",
        223: "The driver is older than this torch: update it",
    }
    return known.get(status, "Use --device cpu, and report this line")
