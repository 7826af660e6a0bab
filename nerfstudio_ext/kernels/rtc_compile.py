"""CUDA C++ to machine code with NVRTC, through its C interface; needs no headers, no toolkit and no GPU."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError
from .rtc_cache import Compiled, DiskCache

_STANDARD = "--std=c++17"
_ERROR_LINES = 3
"""Lines of the compiler's log that go into an error message; the whole log is kept on disk."""

_log = logging.getLogger(__name__)


class CompileError(UserError):
    """The compiler refused a program; `log` holds all it said."""

    def __init__(self, what: str, log: str, *, where: str, fix: str) -> None:
        self.log = log
        super().__init__(what, where=where, fix=fix)


@dataclass(frozen=True)
class Program:
    """Source text and how to compile it.

    Attributes:
        name: Name of the main file, for messages.
        source: Its text.
        headers: Text of the files it may include, by name.
        defines: Macros, by name.
        options: Further options of the compiler.
    """

    name: str
    source: str
    headers: Mapping[str, str] = field(default_factory=dict)
    defines: Mapping[str, int | str] = field(default_factory=dict)
    options: tuple[str, ...] = ()

    @property
    def all_options(self) -> list[str]:
        """Options as the compiler takes them, the architecture excepted."""
        defines = [f"-D{name}={value}" for name, value in sorted(self.defines.items())]
        return [_STANDARD, *self.options, *defines]


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel takes.

    Attributes:
        registers: Per thread.
        spill_bytes: Registers written to and read from memory, per thread.
        stack_bytes: Local memory per thread.
        shared_bytes: Static shared memory per block.
    """

    registers: int
    spill_bytes: int
    stack_bytes: int
    shared_bytes: int


class Nvrtc:
    """The functions of NVRTC.

    Args:
        library: The loaded library.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        library.nvrtcGetErrorString.restype = ctypes.c_char_p

    @property
    def version(self) -> tuple[int, int]:
        """CUDA version of the compiler."""
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._check(self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
        return major.value, minor.value

    def architectures(self) -> list[int]:
        """Architectures it compiles for, such as 90 for sm_90, ascending."""
        count = ctypes.c_int()
        self._check(self._library.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
        found = (ctypes.c_int * count.value)()
        self._check(self._library.nvrtcGetSupportedArchs(found))
        return sorted(found)

    def compile(self, program: Program, target: str) -> Compiled:
        """Compile for a target: `sm_90` gives machine code, `compute_90` PTX.

        Raises:
            CompileError: if the compiler refuses the program.
        """
        handle = ctypes.c_void_p()
        names, texts = _strings(program.headers.keys()), _strings(program.headers.values())
        self._check(
            self._library.nvrtcCreateProgram(
                ctypes.byref(handle), program.source.encode(), program.name.encode(), len(program.headers), texts, names
            )
        )
        try:
            options = [*program.all_options, f"--gpu-architecture={target}"]
            if target.startswith("sm_"):
                options.append("--ptxas-options=-v")  # the log then tells registers and spills
            status = self._library.nvrtcCompileProgram(handle, len(options), _strings(options))
            log = self._text(handle, "ProgramLog")
            if status:
                raise _refusal(program, target, log or self._error(status))
            return Compiled(self._bytes(handle, "CUBIN" if target.startswith("sm_") else "PTX"), log)
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(handle))

    def _bytes(self, handle: ctypes.c_void_p, kind: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(getattr(self._library, f"nvrtcGet{kind}Size")(handle, ctypes.byref(size)))
        data = ctypes.create_string_buffer(max(size.value, 1))
        self._check(getattr(self._library, f"nvrtcGet{kind}")(handle, data))
        return data.raw[: size.value]

    def _text(self, handle: ctypes.c_void_p, kind: str) -> str:
        return self._bytes(handle, kind).rstrip(b"\0").decode(errors="replace").strip()

    def _check(self, status: int) -> None:
        if status:
            raise UserError(f"NVRTC failed: {self._error(status)}", fix="Install a CUDA build of torch anew")

    def _error(self, status: int) -> str:
        text = self._library.nvrtcGetErrorString(status)
        return text.decode(errors="replace") if isinstance(text, bytes) else f"error {status}"


def target_for(architecture: int, known: Sequence[int]) -> str:
    """What to compile for on a device: its own machine code, or PTX that the driver finishes for a newer device.

    Raises:
        UserError: if the compiler no longer knows so old a device.
    """
    if architecture in known:
        return f"sm_{architecture}"
    older = [each for each in known if each < architecture]
    if not older:
        raise UserError(
            f"this CUDA compiler knows sm_{min(known)} and newer, the device is sm_{architecture}" if known else
            "this CUDA compiler knows no architecture",
            fix="Install a torch built for an earlier CUDA, or use --device cpu",
        )  # fmt: skip
    return f"compute_{max(older)}"


def key_of(program: Program, target: str, version: tuple[int, int]) -> str:
    """Everything a compilation depends on, as one name."""
    digest = hashlib.sha256()
    parts = [program.name, program.source, target, f"{version[0]}.{version[1]}", *program.all_options]
    for name, text in sorted(program.headers.items()):
        parts += [name, text]
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def compiled(program: Program, architecture: int, nvrtc: Nvrtc, cache: DiskCache) -> Compiled:
    """A program for a device, from the cache or compiled now, which says so in one line.

    Raises:
        CompileError: if the compiler refuses it; its whole log lies beside the cache.
        UserError: if the compiler cannot serve the device.
    """
    target = target_for(architecture, nvrtc.architectures())
    key = key_of(program, target, nvrtc.version)
    found = cache.get(key)
    if found is not None:
        return found
    began = time.monotonic()
    note = {"is_note": True}
    _log.warning("compiling CUDA kernels (%s) for %s, once on this machine ...", program.name, target, extra=note)
    try:
        found = nvrtc.compile(program, target)
    except CompileError as error:
        _keep_log(error, cache, key)
        raise
    _log.info("compiled %s for %s in %.1f s", program.name, target, time.monotonic() - began)
    cache.put(key, found)
    return found


def resources_of(log: str) -> dict[str, Resources]:
    """Resources of every kernel, from the assembler's messages in a compiler's log."""
    found: dict[str, Resources] = {}
    parts = re.split(r"Compiling entry function '([^']+)'", log)
    for name, text in zip(parts[1::2], parts[2::2], strict=True):
        stack, stores, loads = (
            _number(rf"(\d+) bytes {what}", text) for what in ("stack", "spill stores", "spill loads")
        )
        used = re.search(r"Used \d+ registers.*", text)
        line = used[0] if used else ""
        registers, shared = _number(r"Used (\d+) registers", line), _number(r"(\d+)(?:\+\d+)? bytes smem", line)
        found[name] = Resources(registers, stores + loads, stack, shared)
    return found


def _number(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    return int(match[1]) if match else 0


def _refusal(program: Program, target: str, log: str) -> CompileError:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    telling = [line for line in lines if "error" in line.lower()] or lines
    what = f"the CUDA kernels do not compile for {target}: {'; '.join(telling[:_ERROR_LINES])}"
    return CompileError(what, log, where=program.name, fix="Use --device cpu, and report the log")


def _keep_log(error: CompileError, cache: DiskCache, key: str) -> None:
    path = cache.folder / f"{key[:16]}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(error.log, encoding="utf-8")
    except OSError:
        return
    _log.error("the compiler's log is in %s", path)


def _strings(texts: Any) -> Any:
    encoded = [text.encode() for text in texts]
    return (ctypes.c_char_p * len(encoded))(*encoded)
