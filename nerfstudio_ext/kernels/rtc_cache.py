"""Compiled kernels on disk: written whole or not at all, checked when read, bounded in size, shared by processes."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .user_cache import user_cache

_MAGIC = b"nsx-cubin-1\n"
_DIGEST_BYTES = 32
_LENGTH_BYTES = 4
DEFAULT_MAX_BYTES = 256 << 20
"""Some hundred specialisations for several architectures; one entry is 0.1 to 1 MB."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Compiled:
    """Machine code and what the compiler said about it.

    Attributes:
        code: A cubin, or PTX where the compiler did not know the architecture.
        log: The compiler's messages: registers and spills of each kernel, warnings.
    """

    code: bytes
    log: str


class DiskCache:
    """Compiled programs by key.

    Args:
        folder: Where entries lie; default: `nerfstudio-ext/cuda` in the user's cache.
        max_bytes: The least recently used entries go when all together are larger.
    """

    def __init__(self, folder: Path | None = None, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.folder = folder if folder is not None else user_cache() / "nerfstudio-ext" / "cuda"
        self.max_bytes = max_bytes
        self._is_announced = False

    def get(self, key: str) -> Compiled | None:
        """The entry of a key; None where there is none or it is damaged (it is then removed)."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        found = _unpacked(data)
        with contextlib.suppress(OSError):
            if found is None:
                path.unlink()
            else:
                os.utime(path)  # recently used
        return found

    def put(self, key: str, compiled: Compiled) -> None:
        """Keep an entry. A folder that cannot be written costs a compilation next time, nothing else."""
        temporary = ""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self.folder, prefix=f"{key[:16]}-", suffix=".part")
            with os.fdopen(handle, "wb") as file:
                file.write(_packed(compiled))
            os.replace(temporary, self._path(key))
        except OSError as error:
            with contextlib.suppress(OSError):
                if temporary:
                    os.unlink(temporary)
            if not self._is_announced:
                self._is_announced = True
                _log.warning(
                    "compiled CUDA kernels cannot be kept in %s (%s): they compile anew next time", self.folder, error
                )
            return
        self._prune(keep=self._path(key))

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.cubin"

    def _prune(self, keep: Path) -> None:
        entries = []
        for path in self.folder.glob("*.cubin"):
            with contextlib.suppress(OSError):  # another process may prune at the same time
                entries.append((path.stat().st_mtime_ns, path.stat().st_size, path))
        excess = sum(size for _, size, _ in entries) - self.max_bytes
        for _, size, path in sorted(entries):
            if excess <= 0:
                return
            if path != keep:
                with contextlib.suppress(OSError):
                    path.unlink()
                excess -= size


def _packed(compiled: Compiled) -> bytes:
    log = compiled.log.encode()
    body = len(log).to_bytes(_LENGTH_BYTES, "little") + log + compiled.code
    return _MAGIC + hashlib.sha256(body).digest() + body


def _unpacked(data: bytes) -> Compiled | None:
    """Undo `_packed`; None for anything that is not whole."""
    at = len(_MAGIC) + _DIGEST_BYTES
    body = data[at:]
    if not data.startswith(_MAGIC) or hashlib.sha256(body).digest() != data[len(_MAGIC) : at]:
        return None
    end = _LENGTH_BYTES + int.from_bytes(body[:_LENGTH_BYTES], "little")
    return Compiled(body[end:], body[_LENGTH_BYTES:end].decode(errors="replace"))
