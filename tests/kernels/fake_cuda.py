"""Stand-ins for the two libraries behind run-time compilation: they keep what they are told and can be made to fail."""

from __future__ import annotations

import threading
from typing import Any

import torch

from nerfstudio_ext.kernels.rtc import Toolchain
from nerfstudio_ext.kernels.rtc_cache import DiskCache
from nerfstudio_ext.kernels.rtc_compile import Nvrtc
from nerfstudio_ext.kernels.rtc_driver import Driver

LOG = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'march' for 'sm_90'
ptxas info    : Function properties for march
    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 16 bytes cumulative stack size, 20480 bytes smem
ptxas info    : Compiling entry function 'adam' for 'sm_90'
ptxas info    : Function properties for adam
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 18 registers, used 0 barriers
"""


class FakeNvrtc:
    """The C interface of NVRTC, without a compiler: the "machine code" names target, options and source.

    Args:
        known: Architectures it says it knows.
        version: Version it says it has.
        refuses: Log of a refusal; None compiles everything.
    """

    def __init__(
        self, known: tuple[int, ...] = (75, 80, 90), version: tuple[int, int] = (13, 0), refuses: str | None = None
    ) -> None:
        self.known, self.version, self.refuses = known, version, refuses
        self.n_compiled = 0
        self.programs: dict[int, dict[str, Any]] = {}
        self.destroyed = 0
        self._lock = threading.Lock()

        class Text:
            restype: Any = None

            def __call__(self, status: int) -> bytes:
                return f"NVRTC_ERROR_{status}".encode()

        self.nvrtcGetErrorString = Text()

    def nvrtcVersion(self, major: Any, minor: Any) -> int:
        major._obj.value, minor._obj.value = self.version
        return 0

    def nvrtcGetNumSupportedArchs(self, count: Any) -> int:
        count._obj.value = len(self.known)
        return 0

    def nvrtcGetSupportedArchs(self, found: Any) -> int:
        found[:] = self.known
        return 0

    def nvrtcCreateProgram(self, handle: Any, source: bytes, name: bytes, n: int, texts: Any, names: Any) -> int:
        with self._lock:
            number = len(self.programs) + 1
            headers = {names[i].decode(): texts[i].decode() for i in range(n)}
            self.programs[number] = {"source": source, "name": name, "headers": headers}
            handle._obj.value = number
        return 0

    def nvrtcCompileProgram(self, handle: Any, n: int, options: Any) -> int:
        self.programs[handle.value]["options"] = [options[i].decode() for i in range(n)]
        self.n_compiled += 1
        return 6 if self.refuses is not None else 0

    def nvrtcDestroyProgram(self, handle: Any) -> int:
        self.destroyed += 1
        return 0

    def _log(self) -> bytes:
        return (LOG if self.refuses is None else self.refuses).encode() + b"\0"

    def nvrtcGetProgramLogSize(self, handle: Any, size: Any) -> int:
        size._obj.value = len(self._log())
        return 0

    def nvrtcGetProgramLog(self, handle: Any, data: Any) -> int:
        data[: len(self._log())] = self._log()
        return 0

    def _code(self, handle: Any) -> bytes:
        program = self.programs[handle.value]
        return b"\x7fELF" + "\n".join(program["options"]).encode() + b"\0" + program["source"]

    def nvrtcGetCUBINSize(self, handle: Any, size: Any) -> int:
        size._obj.value = len(self._code(handle))
        return 0

    def nvrtcGetCUBIN(self, handle: Any, data: Any) -> int:
        data[: len(self._code(handle))] = self._code(handle)
        return 0

    nvrtcGetPTXSize, nvrtcGetPTX = nvrtcGetCUBINSize, nvrtcGetCUBIN


class FakeDriver:
    """The C interface of the driver; `failing` names functions and the status they return."""

    def __init__(self, failing: dict[str, int] | None = None) -> None:
        self.failing = failing or {}
        self.launches: list[dict[str, Any]] = []
        self.loaded: list[bytes] = []
        self.asked_shared: list[int] = []

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            raise AttributeError(name)
        return lambda *arguments: self.failing.get(name) or self._do(name, arguments)

    def _do(self, name: str, arguments: tuple[Any, ...]) -> int:
        if name == "cuModuleLoadData":
            self.loaded.append(arguments[1].value)
            arguments[0]._obj.value = len(self.loaded)
        elif name == "cuModuleGetFunction":
            arguments[0]._obj.value = 1000 + len(arguments[2])
        elif name in ("cuDevicePrimaryCtxRetain", "cuDeviceGet"):
            arguments[0]._obj.value = 7
        elif name == "cuDeviceGetAttribute":
            arguments[0]._obj.value = {97: 232448, 81: 233472}[arguments[1]]
        elif name == "cuFuncSetAttribute":
            self.asked_shared.append(arguments[2])
        elif name == "cuGetErrorString":
            arguments[1]._obj.value = f"reason {arguments[0]}".encode()
        elif name == "cuLaunchKernel":
            keys = ("gx", "gy", "gz", "bx", "by", "bz", "shared", "stream", "pointers")
            self.launches.append(dict(zip(keys, arguments[1:10], strict=True)))
        return 0


def fake_tools(folder: Any, nvrtc: FakeNvrtc | None = None, driver: FakeDriver | None = None) -> Toolchain:
    """A toolchain of stand-ins with a cache in a folder."""
    return Toolchain(Nvrtc(nvrtc or FakeNvrtc()), Driver(driver or FakeDriver()), DiskCache(folder))


CPU = torch.device("cpu")
"""Stands for the device: with stand-ins nothing looks at what the pointers point to."""
