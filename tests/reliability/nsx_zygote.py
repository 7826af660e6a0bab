"""A process that has the command line imported and forks one child per call, so that a call costs no three seconds.

Run as `python -m tests.reliability.nsx_zygote FD`; requests and answers are JSON lines on that socket. A child is the
real `nsx`: its own session, working folder, environment, standard streams and memory limit. What it opens and starts is
logged by an audit hook, so that a test can hold that a file was never touched.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import random
import resource
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PRELOADED = (
    "torch numba safetensors.torch PIL.Image rich.progress nerfstudio_ext.cli.entry nerfstudio_ext.methods.ngp "
    "nerfstudio_ext.training.trainer nerfstudio_ext.scenes.loading nerfstudio_ext.scenes.photos "
    "nerfstudio_ext.scenes.sfm_process nerfstudio_ext.renderer nerfstudio_ext.kernels.cpu nerfstudio_ext.cli.capture "
    "nerfstudio_ext.cli.session nerfstudio_ext.cli.thumbnails nerfstudio_ext.exporters nerfstudio_ext.metrics typeguard"
).split()
LATER = ("torch._dynamo", "torchmetrics", "nerfstudio_ext.kernels.reference_fused", "nerfstudio_ext.kernels.cpu_step")
"""Imported here once a child has needed it: seconds that calls which refuse their input never pay."""
_WATCHED = {"open": "open", "subprocess.Popen": "run", "os.system": "run", "os.exec": "run", "os.posix_spawn": "run"}
_POLL_S = 0.002
_SIGNAL_WHEN_PARENT_ENDS = 1
"""PR_SET_PDEATHSIG of Linux's prctl."""


def main(channel_fd: int) -> None:
    """Answer requests until the channel closes; never returns in a child that was forked."""
    with socket.socket(fileno=channel_fd) as channel, channel.makefile("rw", encoding="utf-8") as lines:
        _preload()
        _answer(lines, {"ready": True, "virtual_mb": _status_mb("VmSize"), "resident_mb": _status_mb("VmRSS")})
        for line in lines:
            request = json.loads(line)
            if request["do"] == "start":
                _import([name for name in request["modules"] if name not in sys.modules])
                _answer(lines, {"pid": _start(request, channel_fd)})
            else:
                _answer(lines, _wait(request["pid"], request["seconds"]))


def _preload() -> None:
    from nerfstudio_ext.cli.entry import COMMANDS
    from nerfstudio_ext.cli.entry import main as nsx

    _import([*PRELOADED, *(f"nerfstudio_ext.cli.{command.module}" for command in COMMANDS.values())])
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        nsx(["train", "--help"])  # what reads options keeps what it has learnt of them


def _import(names: Sequence[str]) -> None:
    if not names:
        return
    for name in names:
        importlib.import_module(name)
    if "torch._dynamo" in names:  # a training: the rest of what optimisers and compiled kernels import
        import torch
        from numba.core.registry import cpu_target

        torch.optim.Adam([torch.zeros(1, requires_grad=True)])
        cpu_target.target_context.refresh()
        cpu_target.typing_context.refresh()
    gc.collect()
    gc.freeze()  # what is imported stays shared with the children, whose collections would copy it
    if threading.active_count() > 1:
        raise RuntimeError("the imports started a thread: children forked from here would not be whole")


def _answer(lines: Any, answer: dict[str, Any]) -> None:
    lines.write(json.dumps(answer) + "\n")
    lines.flush()


def _start(request: dict[str, Any], channel_fd: int) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.close(channel_fd)
        _become(request)
        from nerfstudio_ext.cli import main as nsx

        code = nsx(request["argv"])
        threading._shutdown()  # type: ignore[attr-defined]  # as the interpreter's end: threads first, then its exit functions
        atexit._run_exitfuncs()
    except BaseException as fault:  # noqa: BLE001 - nothing may climb back into the zygote's loop
        sys.excepthook(type(fault), fault, fault.__traceback__)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _become(request: dict[str, Any]) -> None:
    """Make the forked child look like a process that a shell started."""
    os.setsid()
    if sys.platform == "linux":  # a call left behind by tests that were killed would run, and be waited for by nobody
        ctypes.CDLL(None).prctl(_SIGNAL_WHEN_PARENT_ENDS, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.argv = ["nsx", *request["argv"]]
    os.chdir(request["folder"])
    for name, value in request["env"].items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    tempfile.tempdir = None
    random.seed()
    log_fd = os.open(request["audit"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for target, name, flags in ((0, "stdin", os.O_RDONLY), (1, "out", os.O_WRONLY), (2, "err", os.O_WRONLY)):
        source = os.open(request[name], flags)
        os.dup2(source, target)
        os.close(source)
    for target, name in ((1, "stdout"), (2, "stderr")):
        # The streams were opened on files that could be sought in; a terminal or a pipe cannot.
        setattr(sys, name, open(target, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
    if request["memory_mb"] is not None:
        limit = int((_status_mb("VmSize") + request["memory_mb"]) * 2**20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for name, value in request["limits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))
    sys.addaudithook(lambda event, words: _note(log_fd, event, words))


def _note(log_fd: int, event: str, words: tuple[Any, ...]) -> None:
    kind = _WATCHED.get(event)
    if event == "import" and words[0] in LATER:
        os.write(log_fd, (json.dumps(["import", [words[0]]]) + "\n").encode())
    elif kind is not None and not isinstance(words[0], int):
        subject = words[1] if event == "subprocess.Popen" else words[0]
        names = [os.fsdecode(word) for word in (subject if isinstance(subject, (list, tuple)) else [subject])]
        os.write(log_fd, (json.dumps([kind, names]) + "\n").encode())


def _wait(pid: int, seconds: float) -> dict[str, Any]:
    """Wait for a child; past its time its whole group is killed. A code below 0 is minus a signal's number."""
    deadline, is_late = time.monotonic() + seconds, False
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline and not is_late:
            is_late = True
            _kill_group(pid)
            os.kill(pid, signal.SIGKILL)  # it may not have come to lead its group yet
        time.sleep(_POLL_S)
    _kill_group(pid)  # what the child has left behind
    return {"code": os.waitstatus_to_exitcode(status), "peak_mb": usage.ru_maxrss / 1024, "late": is_late}


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _status_mb(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
