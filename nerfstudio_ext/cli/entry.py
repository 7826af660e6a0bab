"""The entry point: finds the command, runs it, and turns every way it can end into an exit code.

0 done; 2 something the user can fix (one line, no traceback); 1 our fault (traceback in a file);
130 / 143 after SIGINT / SIGTERM.
"""

from __future__ import annotations

import dataclasses
import errno
import gc
import importlib
import logging
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, cast

from .. import __version__
from ..errors import TrainingFailed, UserError
from .console import Output
from .environment import configure_threads
from .parsing import did_you_mean, parse

INTERRUPTED, TERMINATED = 130, 143
_NO_MEMORY = "not enough memory. Use a larger --downscale-factor or fewer photos."


class CommandModule(Protocol):
    """What a module of this package offers as a subcommand."""

    def options_for(self, argv: list[str]) -> tuple[type[Any], list[str]]:
        """The options dataclass for these words, and the words left to parse."""

    def run(self, options: Any, out: Output) -> int | None:
        """Do the work; the return value is the exit code (None: 0)."""


@dataclasses.dataclass(frozen=True)
class Command:
    """One subcommand: where it lives and what it is for."""

    module: str
    usage: str
    summary: str


COMMANDS = {
    "demo": Command("demo", "", "The whole story on the sample capture: poses, training, video, metrics."),
    "doctor": Command("doctor", "[RUN]", "What this machine can do, kernel by kernel; or whether a run is sound."),
    "process": Command("process", "INPUT --output-dir DIR", "Photo folder or video to posed capture."),
    "train": Command("train", "[METHOD] INPUT", "Train a scene on photos, a video or a posed capture, and watch it."),
    "view": Command("view", "RUN", "Walk through a finished run in the browser."),
    "path": Command("path", "orbit|spiral|interpolate|csv RUN", "Make a camera path for rendering."),
    "render": Command("render", "RUN --path SPEC --output-path OUT", "Render a run along a path: video or pictures."),
    "export": Command("export", "points|mesh|cameras|scene RUN", "Point cloud, mesh, cameras, or all in one file."),
    "eval": Command("evaluate", "RUN", "PSNR and SSIM on held-out photos, per image and mean."),
    "batch": Command("batch", "MANIFEST.json", "Poses, training, scores, films and marks of many captures."),
    "stega": Command(
        "stega", "embed RUN|extract PICTURES", "Provenance marks: hide a message, find it, measure what it survives."
    ),
    "import": Command("importing", "gnt FILE", "Convert weights that other programs trained."),
    "corrupt": Command("corrupt", "CAPTURE", "Copy a capture with bad training photos or poses, to test robustness."),
    "bench": Command("bench", "cpu|aug|viewer|cluster", "Measure this machine: kernels, training, viewer, processes."),
}


class _Terminated(KeyboardInterrupt):
    """SIGTERM arrived; cleaned up after like Ctrl+C, with another exit code."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `nsx` with these words (default: the process's own); returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without Unicode must not end a training run
    if words and words[0] in ("-V", "--version"):
        print(f"nerfstudio-ext {__version__}")
        return 0
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if words else 2
    return _guarded(words)


def overview() -> str:
    """The text of `nsx --help`."""
    width = max(len(f"{name} {command.usage}") for name, command in COMMANDS.items()) + 2
    rows = "\n".join(f"  {f'{name} {command.usage}':{width}}{command.summary}" for name, command in COMMANDS.items())
    return (
        f"usage: nsx COMMAND ...        nerfstudio-ext {__version__}: photos in, a 3D scene out\n\n{rows}\n\n"
        "`nsx COMMAND --help` shows a command's options. Every command takes `--json PATH|-`.\n"
        "First steps: `nsx demo`, then `nsx train FOLDER_OF_PHOTOS`."
    )


def _open_closed_streams() -> None:
    """Started with `>&-` or by a service, a process has no standard output; what is printed then goes nowhere."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            if nowhere != number:  # nothing else may come to lie on the number of a standard stream
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115 - as long as we live


def _guarded(words: list[str]) -> int:
    debug = "--debug" in words
    name = words[0]
    previous = _handle_sigterm()
    try:
        return _run(name, words[1:])
    except SystemExit as stop:  # help was printed
        return stop.code if isinstance(stop.code, int) else 0
    except UserError as error:
        return _report(error.line, 2, debug)
    except TrainingFailed as failure:
        return _report(str(failure), 1, debug)
    except BrokenPipeError:  # the reader of our output has gone, as in `nsx ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except _Terminated:
        return _report("stopped by SIGTERM.", TERMINATED, debug)
    except KeyboardInterrupt:
        return _report("stopped.", INTERRUPTED, debug)
    except MemoryError:
        return _report(f"nsx {name}: {_NO_MEMORY}", 2, debug)
    except Exception as fault:  # noqa: BLE001 - the outermost supervisor: whatever it is, one line and a log
        line = _system_fault(fault)
        return _report(line, 2, debug) if line else _report_our_fault(name, fault, debug)
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def _run(name: str, argv: list[str]) -> int:
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS)
        raise UserError(f"unknown command '{name}'{hint}", where="nsx", fix="`nsx --help` lists the commands")
    configure_threads()
    gc.set_threshold(20_000)  # searching what imports leave again and again takes a tenth of the start
    command = COMMANDS[name]
    module = cast(CommandModule, importlib.import_module(f".{command.module}", __package__))
    options_type, argv = module.options_for(argv)
    # An action of a command, such as `stega extract`, names itself.
    spoken, summary = getattr(options_type, "command", name), getattr(options_type, "summary", command.summary)
    options = parse(options_type, argv, spoken, summary)
    out = Output(options.json)
    logging.basicConfig(handlers=[out.log_handler()])
    return module.run(options, out) or 0


def _handle_sigterm() -> Any:
    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise _Terminated

    try:
        return signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: whoever started us handles signals
        return None


def _report(line: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"error: {line}" if code not in (INTERRUPTED, TERMINATED) else line, file=sys.stderr)
    return code


def _report_our_fault(command: str, fault: Exception, debug: bool) -> int:
    text = "".join(traceback.format_exception(fault))
    with tempfile.NamedTemporaryFile(
        "w", prefix="nsx-", suffix=".log", delete=False, encoding="utf-8", errors="replace"
    ) as log:
        log.write(f"nsx {command}, version {__version__}\n{text}")
    reason = " ".join(f"{type(fault).__name__}: {fault}".split())[:200]
    line = f"nsx {command} failed by a fault of its own ({reason}). Please report it with {log.name}."
    return _report(line, 1, debug)


def _system_fault(fault: Exception) -> str:
    """One line for the faults of a machine that its user can mend; empty for any other."""
    fixes = {
        errno.ENOSPC: "Free some space or choose another --output-dir",
        errno.EDQUOT: "Free some space or choose another --output-dir",
        errno.EACCES: "Give yourself access or choose another folder",
        errno.EPERM: "Give yourself access or choose another folder",
        errno.EROFS: "Choose an --output-dir on a disk that can be written",
        errno.EMFILE: "Raise the limit of open files (ulimit -n)",
        errno.EADDRINUSE: "Choose another --port",
    }
    from ..memory import is_out_of_memory  # imports torch, which `nsx --help` does not wait for

    if is_out_of_memory(fault):
        return f"nsx: {_NO_MEMORY}"
    if not isinstance(fault, OSError) or fault.errno not in fixes:
        return ""
    where = Path(os.fsdecode(fault.filename)) if fault.filename else ""
    return UserError(os.strerror(fault.errno).lower(), where=where, fix=fixes[fault.errno]).line
