"""One writer per run folder: a lock file that names its process and outlives no crash for long."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path
from types import ModuleType
from typing import BinaryIO, Literal

from ..errors import UserError

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows: the process number alone decides
    fcntl = None


class RunLock:
    """Holds `<run>/lock` while somebody writes to the run.

    The operating system drops the file lock when its process dies, however it dies; process number and start time in
    the file are for people, and decide where file locks do not work.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None

    def acquire(self) -> bool:
        """Take the lock.

        Returns:
            True when a lock of a process that died was taken over.
        Raises:
            UserError: if another process holds it, or the folder cannot be written.
        """
        file = self._open()
        is_ours = _lock_file(file)
        file.seek(0)
        before = file.read(4096)
        if not is_ours or _is_alive(before):
            file.close()
            owner = _parsed(before).get("pid", "unknown")
            raise UserError(
                f"process {owner} is using this run",
                where=self.path.parent,
                fix=f"Wait for it or stop it; if there is no such process, delete {self.path}",
            )
        if not _is_same_file(file, self.path):
            file.close()  # its owner removed it between our open and our lock
            return self.acquire()
        file.truncate(0)
        pid = os.getpid()
        file.write(json.dumps({"pid": pid, "host": socket.gethostname(), "started": _start_time(pid)}).encode())
        file.flush()
        self._file = file
        return bool(before)

    def _open(self) -> BinaryIO:
        try:
            return self.path.open("a+b")
        except OSError as error:
            raise UserError(
                f"the run folder cannot be written: {error.strerror}",
                where=self.path.parent,
                fix="Choose another --output-dir",
            ) from error

    def release(self) -> None:
        """Give the lock back; harmless when it is not held."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):  # a folder that vanished meanwhile has no lock to remove
            self.path.unlink(missing_ok=True)
        self._file.close()
        self._file = None


def lock_holder(path: Path) -> tuple[Literal["free", "held", "stale"], int]:
    """Who holds a lock, without taking it.

    Returns:
        "free" where there is none, "held" by a live process, "stale" where its process has died; and its number.
    """
    try:
        with path.open("rb") as file:
            content = file.read(4096)
            is_held = _is_alive(content) or not _lock_file(file)
    except FileNotFoundError:
        return "free", 0
    except OSError:
        return "held", 0
    pid = _parsed(content).get("pid")
    return "held" if is_held else "stale", pid if isinstance(pid, int) else 0


def _is_same_file(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _lock_file(file: BinaryIO) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks
    return True


def _parsed(content: bytes) -> dict:
    try:
        data = json.loads(content)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _is_alive(content: bytes) -> bool:
    """Whether the process that wrote the lock still runs, on this host; a number that was reused does not count."""
    data = _parsed(content)
    pid, host = data.get("pid"), data.get("host")
    if type(pid) is not int or pid <= 0 or pid == os.getpid() or host not in (None, socket.gethostname()):
        return False
    if os.name == "nt":
        return False  # signal 0 would be a Ctrl+C there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it lives, as another user
    except OSError:
        return False
    started = data.get("started")
    return started in (None, "") or started == _start_time(pid)


def _start_time(pid: int) -> str:
    """The kernel's start time of a process, or "" where there is no such file."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
