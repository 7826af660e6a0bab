"""What commands say about a viewer: its links, how to reach it from elsewhere, and what an open address means."""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..viewer import ViewerServer

SECRET_FILE = "viewer-secret"


def viewer_secret() -> bytes:
    """The secret of this user's viewers, from a file only they can read: links stay valid over restarts.

    Where no such file can be kept a fresh secret is used, and links are valid for one server.
    """
    from ..viewer.gate import SECRET_BYTES, fresh_secret

    with contextlib.suppress(OSError, RuntimeError):  # there may be no home folder
        folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "nerfstudio-ext"
        file = folder / SECRET_FILE
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileExistsError):
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as new:
                new.write(fresh_secret())
        secret = file.read_bytes()
        is_private = os.name == "nt" or (file.stat().st_mode & 0o077 == 0 and file.stat().st_uid == os.getuid())
        if len(secret) == SECRET_BYTES and is_private:
            return secret
    return fresh_secret()


def link_lines(viewer: ViewerServer) -> list[str]:
    """Lines for the terminal: the links, then the way in from another machine or what an open address means."""
    lines = [f"Viewer: {viewer.link('owner')}", f"For others, to look only: {viewer.link('watcher')}"]
    if viewer.is_open:
        lines.append(
            f"Listening on {viewer.host}: everybody who reaches this machine and has a link gets in, and nothing is "
            "encrypted. Without --host only this machine can."
        )
    else:
        lines.append(f"From another machine: {ssh_line(viewer.port)}   then open the link there")
    return lines


def ssh_line(port: int) -> str:
    """The command that forwards the viewer's port to another machine."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = "USER"
    return f"ssh -N -L {port}:127.0.0.1:{port} {user}@{socket.gethostname()}"
