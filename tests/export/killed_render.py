"""A program that starts an export again and again, kills it at random moments, and lets the last one finish.

Run as `python -m tests.export.killed_render FOLDER SUFFIX KILLS FRAMES SEED`; prints how often it killed, and how often
when all frames were rendered. The workers are forks of this process, so that the imports are paid for once. They
render the analytic ball, slowed down a little.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import torch

from nerfstudio_ext.cameras import Camera
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.exporters import FrameOptions, write_frames
from nerfstudio_ext.exporters.sequence import noted_files, read_manifest
from nerfstudio_ext.renderer import CancelToken, Frame, RayRenderer

from .ball import ball, turn

OPTIONS = FrameOptions(outputs=("rgb", "depth"))


class SlowRenderer(RayRenderer):
    """Takes two milliseconds more per frame."""

    def render(self, camera: Camera, *, cancel: CancelToken | None = None) -> Frame:
        time.sleep(0.002)
        return super().render(camera, cancel=cancel)


def start(output: Path, n_frames: int) -> int:
    """Fork a process that exports; returns its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        write_frames(SlowRenderer(ball), turn(n_frames), output, OPTIONS)
        code = 0
    except UserError as error:
        # A kill may come when all is written, before the process has ended: then nothing is left to do.
        print(error.line, file=sys.stderr, flush=True)
        code = 0 if is_finished(output) else 1
    except BaseException:  # noqa: BLE001 - a fork must not climb back into the loop
        traceback.print_exc()
    finally:
        os._exit(code)


def is_finished(output: Path) -> bool:
    """Whether an export lies there whole."""
    if output.suffix:
        return output.is_file() and not work_folder(output).exists()
    return (read_manifest(output) or {}).get("finished") is True


def work_folder(output: Path) -> Path:
    """Where the frames are noted while an export is made."""
    return output.with_name(output.name + ".partial") if output.suffix else output


def wait_for(work: Path, child: int, wanted: int) -> None:
    """Return when so many frames are noted, or an encoder has begun, or the process has ended."""
    until = time.monotonic() + 20
    while time.monotonic() < until and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if n_noted(work) >= wanted or list(work.rglob("film-*")):
            return
        time.sleep(0.001)


def n_noted(work: Path) -> int:
    """Finished frames, counted over all outputs."""
    return sum(name.endswith(".png") for name in noted_files(work))


def main(folder: str, suffix: str, kills: str, frames: str, seed: str) -> int:
    """Kill `kills` times, then wait for one undisturbed run."""
    torch.set_num_threads(1)
    output, generator = Path(folder) / f"film{suffix}", random.Random(int(seed))
    work = work_folder(output)
    n_all, n_killed, n_while_encoding = len(OPTIONS.outputs) * int(frames), 0, 0
    for _ in range(int(kills)):
        child = start(output, int(frames))
        # Of a film whose frames are all there, the next thing to be seen is the encoder's file.
        wait_for(work, child, min(n_noted(work) + 1 + generator.randrange(n_all // 16), n_all + (suffix != "")))
        time.sleep(generator.uniform(0.0, 0.01))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            break  # it was faster
        n_killed += 1
        n_while_encoding += suffix != "" and n_noted(work) == n_all
    else:
        _, status = os.waitpid(start(output, int(frames)), 0)
    print(n_killed, n_while_encoding)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
