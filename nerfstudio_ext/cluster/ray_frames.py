"""Frames on a Ray cluster: the weights go to every node once, a frame whose worker dies is made again.

Workers do what `exporters.frame_work` describes, on one thread each, so that the files are those of a single process.
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..exporters.frame_work import FrameTask, FrameWork, MadeFile, MakeFrames, prepared
from ..progress import Progress
from .ray_cluster import n_processors

if TYPE_CHECKING:
    import numpy as np

    from ..training.runs import OpenedRun

logger = logging.getLogger(__name__)
MOST_TRIES = 4
"""A frame that has ended so many workers will end the next one too."""
_FIX = "See the logs of Ray; every node needs this version of nerfstudio-ext and enough memory"


class FrameWorker:
    """Lives in a process of the cluster and makes one frame after the other.

    Args:
        packed: The content of a scene file.
        device: Where it computes.
    """

    def __init__(self, packed: np.ndarray, device: str) -> None:
        import torch

        from .. import kernels
        from ..training.scene_file import open_scene_file

        torch.set_num_threads(1)
        kernels.set_threads(1)
        with tempfile.TemporaryDirectory(prefix="nsx-") as folder:
            file = Path(folder) / "scene.nsx"
            file.write_bytes(packed.tobytes())
            self._renderer = open_scene_file(file, device=device).renderer()

    def make(self, work: FrameWork, task: FrameTask) -> list[MadeFile]:
        """The files of one frame."""
        return work.make(prepared(self._renderer, work.crop, work.options.samples), task)


def frames_on_ray(ray: Any, opened: OpenedRun, n_workers: int | None, progress: Progress) -> MakeFrames:
    """Let workers of a cluster make the frames.

    Args:
        ray: The connected module.
        opened: The run; packed once, and kept once per node by Ray.
        n_workers: At most so many workers, each with a processor; default: all processors of the cluster.
        progress: Told about workers that died.
    """
    device = next(iter(opened.method.parameters())).device.type
    packed = ray.put(_packed(opened))
    needs = {"num_gpus": 1} if device == "cuda" else {"num_cpus": 1}
    hire = ray.remote(**needs)(FrameWorker)

    def make(work: FrameWork, tasks: Sequence[FrameTask]) -> Iterator[tuple[int, list[MadeFile]]]:
        count = min(n_workers or n_processors(ray), len(tasks))
        described = ray.put(work)
        waiting, tries = deque(tasks), Counter[int]()
        idle = [hire.remote(packed, device) for _ in range(count)]
        running: dict[Any, tuple[Any, FrameTask]] = {}
        while waiting or running:
            while waiting and idle:
                worker, task = idle.pop(), waiting.popleft()
                running[worker.make.remote(described, task)] = worker, task
            (finished,), _ = ray.wait(list(running), num_returns=1)
            worker, task = running.pop(finished)
            try:
                made = ray.get(finished)
            except ray.exceptions.RayTaskError as error:
                raise _told(error) from error
            except ray.exceptions.RayError as error:
                tries[task.index] += 1
                _note_loss(task, tries[task.index], error, progress)
                waiting.appendleft(task)
                idle.append(hire.remote(packed, device))
                continue
            idle.append(worker)
            yield task.index, made

    return make


def _packed(opened: OpenedRun) -> np.ndarray:
    """The run as the bytes of a scene file; an array, because Ray lets all processes of a node read one copy."""
    import numpy as np

    from ..training.scene_file import write_scene_file

    with tempfile.TemporaryDirectory(prefix="nsx-") as folder:
        return np.fromfile(write_scene_file(opened, Path(folder) / "scene.nsx"), np.uint8)


def _note_loss(task: FrameTask, n_tries: int, error: Exception, progress: Progress) -> None:
    reason = " ".join(str(error).split())
    logger.info("frame %d, try %d: %s", task.index + 1, n_tries, reason)
    if n_tries >= MOST_TRIES:
        raise UserError(
            f"frame {task.index + 1} was tried {n_tries} times, its worker ended each time ({reason[:120]})",
            where="--ray",
            fix=_FIX,
        )
    progress.warn(f"the worker of frame {task.index + 1} ended; the frame is made again (try {n_tries + 1})")


def _told(error: Any) -> Exception:
    """What went wrong inside a worker, as one line where it is the user's to mend."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, UserError) else error
