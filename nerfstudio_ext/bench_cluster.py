"""Measurements behind `nsx bench cluster`: two single-threaded processes against one, in training and in rendering."""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from . import kernels
from .bench import ball_colors, ball_meta
from .camera_paths import orbit
from .cluster.commands import environ_for, nsx_words, python_words
from .cluster.ray_cluster import LOCAL, connected
from .cluster.ray_frames import frames_on_ray
from .errors import UserError
from .exporters import write_frames
from .exporters.frame_work import MakeFrames
from .progress import Progress, SilentProgress
from .training.metrics_log import read_metrics
from .training.runs import find_run, open_run

FIRST_STEP = 200
"""The first steps are cheap: marching is coarse, and the occupancy is refreshed more often."""
WARM_FRAMES = 6
"""Frames until both workers have opened the scene and loaded their kernels."""
FRAME_SIDE = 400


def bench_cluster(
    progress: Progress | None = None,
    *,
    data: Path | None = None,
    steps: int = 500,
    n_frames: int = 60,
    rounds: int = 2,
) -> dict[str, Any]:
    """Train and render with one thread, and with two processes of one thread each, in turn.

    Equal steps are equal batches, so that the ratio of their times is that of rays per second.

    Args:
        progress: Told about every measurement.
        data: A posed capture; default: a striped ball of 24 views.
        steps: Training steps; those after the 200th are timed.
        n_frames: Frames of 400 x 400 pixels; those after the 6th are timed.
        rounds: How often; the median counts.
    Returns:
        `{"schema": 1, "ratios": {"train": ..., "render": ..., "render_with_start": ...}, "one_rays_per_s": ...,
        "two_rays_per_s": ..., "one_frame_s": ..., "two_frame_s": ..., "psnr_one": ..., "psnr_two": ...}`;
        `render_with_start` counts starting the workers, but not Ray itself.
    """
    progress = progress or SilentProgress()
    with tempfile.TemporaryDirectory(prefix="nsx-bench-") as folder:
        base = Path(folder)
        capture = data or write_ball(base / "ball")
        found: dict[str, list[dict[str, float]]] = {"one": [], "two": []}
        progress.stage("training", 2 * rounds)
        for i in range(rounds):
            for n, name in ((1, "one"), (2, "two")):
                found[name].append(_train(capture, base / f"{name}{i}", n, steps))
                progress.advance(2 * i + n, f"{found[name][-1]['rays_per_s']:,.0f} rays/s")
        progress.stage("rendering", 2)
        frames = _render(find_run(base / "two0"), base, n_frames, progress)
    one, two = ({key: statistics.median(line[key] for line in found[n]) for key in found[n][0]} for n in found)
    return {
        "schema": 1,
        "ratios": {
            "train": round(one["seconds"] / two["seconds"], 3),
            "render": round(frames["one"][0] / frames["two"][0], 3),
            "render_with_start": round(frames["one"][1] / frames["two"][1], 3),
        },
        "one_rays_per_s": round(one["rays_per_s"]),
        "two_rays_per_s": round(two["rays_per_s"]),
        "one_frame_s": round(frames["one"][0], 4),
        "two_frame_s": round(frames["two"][0], 4),
        "psnr_one": round(one["psnr"], 3),
        "psnr_two": round(two["psnr"], 3),
    }


def write_ball(folder: Path) -> Path:
    """Write the striped ball as a posed capture; returns the folder."""
    (folder / "images").mkdir(parents=True)
    meta, listed = ball_meta(), []
    for camera, name in zip(meta.cameras, meta.image_names, strict=True):
        rgb, alpha = ball_colors(camera.rays())
        pixels = (255 * np.concatenate([rgb.numpy(), alpha.numpy()[:, None]], 1)).round().astype(np.uint8)
        Image.fromarray(pixels.reshape(camera.height, camera.width, 4)).save(folder / "images" / name)
        pose = np.vstack([camera.c2w.numpy() * np.array([1, -1, -1, 1]), [0, 0, 0, 1]])
        K = camera.K
        listed.append(
            {
                "file_path": f"images/{name}", "transform_matrix": pose.tolist(), "w": camera.width,
                "h": camera.height, "fl_x": float(K[0, 0]), "fl_y": float(K[1, 1]), "cx": float(K[0, 2]),
                "cy": float(K[1, 2]),
            }
        )  # fmt: skip
    (folder / "transforms.json").write_text(json.dumps({"camera_model": "OPENCV", "aabb_scale": 1, "frames": listed}))
    return folder


def _train(capture: Path, output: Path, n_processes: int, steps: int) -> dict[str, float]:
    words = ["train", "ngp", str(capture), "--output-dir", str(output), "--no-viewer", "--device", "cpu"]
    words += ["--max-images", "0", "--max-steps", str(steps), "--steps-per-save", str(10 * steps)]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes)]
    command = nsx_words(words)
    if n_processes > 1:
        command = [*python_words(), *launcher, "-m", "nerfstudio_ext", *words]
    ended = subprocess.run(command, env=environ_for(1), capture_output=True, text=True, check=False)
    if ended.returncode:
        said = " ".join(ended.stderr.split())[-300:]
        raise UserError(f"training by {n_processes} did not work ({said})", where="nsx bench cluster", fix="See above")
    lines = read_metrics(find_run(output) / "metrics.jsonl")
    timed = [line for line in lines if line["step"] > FIRST_STEP]
    seconds = timed[-1]["train_seconds"] - next(
        line["train_seconds"] for line in reversed(lines) if line["step"] <= FIRST_STEP
    )
    n_rays = sum(line["rays_per_s"] / line["steps_per_s"] for line in timed) / len(timed)
    n_steps = timed[-1]["step"] - max(line["step"] for line in lines if line["step"] <= FIRST_STEP)
    return {"seconds": seconds, "rays_per_s": n_rays * n_steps / seconds, "psnr": timed[-1]["psnr"]}


class _Stopwatch(SilentProgress):
    """When frames were done."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def advance(self, done: int, note: str = "") -> None:
        self.times.append(time.perf_counter())


def _render(run: Path, folder: Path, n_frames: int, progress: Progress) -> dict[str, tuple[float, float]]:
    """Seconds per frame, once they flow and from the beginning, by one process and by two workers."""
    opened = open_run(run)
    kernels.set_threads(1)
    cameras = opened.meta.training_cameras()
    path = orbit(cameras, seconds=1.0, fps=float(n_frames), size=(FRAME_SIDE, FRAME_SIDE))

    def timed(name: str, make_frames: MakeFrames | None) -> tuple[float, float]:
        watch = _Stopwatch()
        began = time.perf_counter()
        write_frames(opened.renderer(), path, folder / name, progress=watch, make_frames=make_frames)
        flowing = (watch.times[-1] - watch.times[WARM_FRAMES - 1]) / (len(watch.times) - WARM_FRAMES)
        return flowing, (watch.times[-1] - began) / len(watch.times)

    found = {"one": timed("one", None)}
    progress.advance(1, f"{found['one'][0]:.3f} s a frame")
    with connected(LOCAL, 2) as ray:
        found["two"] = timed("two", frames_on_ray(ray, opened, 2, SilentProgress()))
    progress.advance(2, f"{found['two'][0]:.3f} s a frame")
    return found
