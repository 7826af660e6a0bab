"""Measurements behind `nsx bench gnt`: the fused path of GNT against its plain form, memory, and the first picture."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .cameras import Camera
from .fields.depth_samples import jitter, spread
from .fields.epipolar import SourceCameras, sample_views
from .fields.gnt_blocks import keep_all
from .fields.gnt_fast import Options
from .fields.gnt_weights import Architecture, GntModel
from .methods.gnt import has_fast_half
from .methods.gnt_photos import Photos, photos_of_scene
from .methods.gnt_render import RAYS_AT_A_TIME, DepthRange, GntRenderer, Sampling, pass_over, views_of
from .progress import Progress, SilentProgress
from .rays import Rays
from .scenes.model import Scene
from .worlds.captures import VALIDATION_SEEDS, make_capture

SIDE, N_VIEWS, N_SAMPLES, N_RAYS = 100, 10, 64, 512
PLAIN_CHUNK = 500
"""Rays at a time of the plain path, those of the official evaluation."""
DROPOUT = 0.1
PAIRS = 3
"""Pairs of calls; the ratio is their median."""
RUNG = 128
_FIRST_PICTURE_LIMIT_S = 120.0
_EVERY_S = 0.005


@dataclass(frozen=True)
class _Bench:
    """The official single-scene network with random weights before a computed capture."""

    model: GntModel
    photos: Photos
    target: Camera
    depth_range: DepthRange

    @classmethod
    def make(cls) -> _Bench:
        scene = make_capture(VALIDATION_SEEDS, n_views=N_VIEWS + 1, side=SIDE, scale="object")
        cameras = [_square(camera) for camera in scene.meta.training_cameras()]
        pictures = [_square_picture(scene, i) for i in range(N_VIEWS + 1)]
        photos = Photos(tuple(pictures[1:]), tuple(cameras[1:]), tuple(range(1, N_VIEWS + 1)))
        return cls(
            GntModel(Architecture(), torch.Generator().manual_seed(0)), photos, cameras[0], DepthRange(scene.meta)
        )

    @property
    def sampling(self) -> Sampling:
        return Sampling(N_SAMPLES, 0, True, N_VIEWS, "dist")

    def sources(self) -> tuple[list[Tensor], SourceCameras]:
        pictures = [picture.float() / 255 for picture in self.photos.pictures]
        return pictures, self.photos.source_cameras(range(N_VIEWS))

    def fused(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Colours and confidence as the method renders them; feature maps are part of the work."""
        renderer = GntRenderer(self.model, self.photos, self.depth_range, self.sampling, dtype=dtype)
        rays = self.target.rays()
        parts = [renderer(rays[i : i + RAYS_AT_A_TIME]) for i in range(0, len(rays), RAYS_AT_A_TIME)]
        return torch.cat([part.rgb for part in parts]), torch.cat([_known(part.alpha) for part in parts])

    @torch.no_grad()
    def plain(self) -> Tensor:
        """The same in plain torch."""
        pictures, cameras = self.sources()
        stacked = torch.stack(pictures)
        maps, rays, colors = self.model.feature_net(stacked), self.target.rays(), []
        for start in range(0, len(rays), PLAIN_CHUNK):
            part = rays[start : start + PLAIN_CHUNK]
            colors.append(self._plain_colors(self.model, stacked, maps, cameras, part, None)[0])
        return torch.cat(colors).clamp(0, 1)

    def _plain_colors(
        self, model: GntModel, pictures: Tensor, maps: Tensor, cameras: SourceCameras, rays: Rays,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        near, far = self.depth_range.of(rays.rays_o[0])
        z = spread(torch.full((len(rays),), near), torch.full((len(rays),), far), N_SAMPLES)
        if generator is not None:
            z = jitter(z, torch.rand(z.shape, generator=generator))
        x = rays.rays_o[:, None] + z[..., None] * rays.rays_d[:, None]
        seen = sample_views(pictures, maps, cameras, x, rays.rays_o)
        drop = keep_all if generator is None else nn.Dropout(DROPOUT)
        return model.net_coarse(seen.rgb_feat, seen.ray_diff, seen.mask, x, rays.rays_d, drop)

    def training(self, *, is_fused: bool) -> Callable[[], object]:
        """A whole step: feature maps, rays with dropout, backward, Adam."""
        model, generator = copy.deepcopy(self.model), torch.Generator().manual_seed(1)
        optimizer = torch.optim.Adam(model.parameters(), 5e-4)
        everything = self.target.rays()
        wanted = torch.rand(N_RAYS, 3, generator=generator)
        drop = nn.Dropout(DROPOUT)

        def step() -> None:
            rays = everything[torch.randperm(len(everything), generator=generator)[:N_RAYS]]
            pictures, cameras = self.sources()
            if is_fused:
                views = views_of(model, pictures, cameras)
                near_far = self.depth_range.of(rays.rays_o[0])
                options = Options(drop, DROPOUT, 1)
                colors = pass_over(model, views, rays, near_far, self.sampling, options, generator=generator).colors[-1]
            else:
                stacked = torch.stack(pictures)
                maps = model.feature_net(stacked)
                colors = self._plain_colors(model, stacked, maps, cameras, rays, generator)[0]
            optimizer.zero_grad(set_to_none=True)
            (colors - wanted).square().mean().backward()
            optimizer.step()

        return step


def bench_gnt(progress: Progress | None = None) -> dict[str, Any]:
    """Time a picture and a training step of GNT in its fused and in its plain form, in turn; then memory, then a view.

    Returns:
        `{"schema": 1, "ratios": {"render": ..., "render_exact": ..., "train": ...}, ...}`: `render` as the method
        renders on this processor, `render_exact` with 32-bit products; seconds of all; the largest difference between
        pictures of both; `peak_mb` of the picture above what was there with the weights loaded (None where the system
        does not tell); `first_picture_s` from the start of `nsx view CAPTURE --method gnt` to a picture of 128 pixels.
    """
    progress = progress or SilentProgress()
    bench = _Bench.make()
    quick = torch.bfloat16 if has_fast_half() else torch.float32
    progress.stage("a picture, fused and plain", PAIRS + 1)
    # Before anything else has run: what that leaves behind would hold all that the fused picture takes.
    peak = _peak_mb(lambda: bench.fused(quick))
    exact, shown = bench.fused(torch.float32), bench.fused(quick)
    plain = bench.plain()
    calls: dict[str, Callable[[], object]] = {
        "fused": lambda: bench.fused(quick), "exact": lambda: bench.fused(torch.float32), "plain": bench.plain,
    }  # fmt: skip
    pictures = _rounds(calls, progress)
    progress.stage("a training step, fused and plain", PAIRS + 1)
    steps = {"fused": bench.training(is_fused=True), "plain": bench.training(is_fused=False)}
    for step in steps.values():
        step()
    training = _rounds(steps, progress)
    progress.stage("the first picture of a capture")
    return {
        "schema": 1,
        "ratios": {
            "render": _ratio(pictures, "plain", "fused"),
            "render_exact": _ratio(pictures, "plain", "exact"),
            "train": _ratio(training, "plain", "fused"),
        },
        "render_s": _middle(pictures, "fused"),
        "render_plain_s": _middle(pictures, "plain"),
        "train_s": _middle(training, "fused"),
        "train_plain_s": _middle(training, "plain"),
        "difference_exact": _difference(exact, plain),
        "difference": _difference(shown, plain),
        "peak_mb": peak,
        "first_picture_s": first_picture_seconds(),
        "threads": torch.get_num_threads(),
    }


def first_picture_seconds() -> float | None:
    """Seconds from the start of `nsx view CAPTURE --method gnt` to a picture of 128 pixels in a browser."""
    from .viewer_bench.browser import FakeBrowser, cookie_from

    with tempfile.TemporaryDirectory(prefix="nsx-bench-") as folder:
        capture, report = write_capture(Path(folder) / "capture"), Path(folder) / "view.json"
        words = [capture, "--method", "gnt", "--port", "0", "--json", report, "--runs-dir", Path(folder) / "runs"]
        command = [sys.executable, "-m", "nerfstudio_ext", "view", *map(str, words)]
        began = time.perf_counter()
        viewer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
        try:
            link = _link_in(report, viewer, began)
            browser = FakeBrowser(int(link.split(":")[2].split("/")[0]), cookie_from(link))
            browser.look((1.3, 0.0, 0.5), size=(2 * RUNG, 2 * RUNG))
            browser.wait_for(lambda picture: max(picture.rgb.shape) >= RUNG, timeout=_FIRST_PICTURE_LIMIT_S)
            seconds = time.perf_counter() - began
            browser.close()
            return round(seconds, 2)
        except (OSError, TimeoutError):
            return None
        finally:
            viewer.send_signal(signal.SIGINT)
            viewer.wait(timeout=30)


def write_capture(folder: Path, *, n_views: int = 24, side: int = 256) -> Path:
    """A computed capture as a posed folder with transforms.json."""
    scene = make_capture(VALIDATION_SEEDS + 1, n_views=n_views, side=side, scale="object")
    (folder / "images").mkdir(parents=True)
    frames = []
    for i, camera in enumerate(scene.meta.cameras):
        name = f"images/{i:03d}.png"
        Image.fromarray(np.array(scene.images.pixels(i))).save(folder / name)
        c2w = camera.c2w.double() * torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)
        K = camera.K.double()
        frames.append({
            "file_path": name, "transform_matrix": [*c2w.tolist(), [0.0, 0.0, 0.0, 1.0]], "w": camera.width,
            "h": camera.height, "fl_x": float(K[0, 0]), "fl_y": float(K[1, 1]), "cx": float(K[0, 2]),
            "cy": float(K[1, 2]),
        })  # fmt: skip
    (folder / "transforms.json").write_text(json.dumps({"aabb_scale": 1, "frames": frames}), encoding="utf-8")
    return folder


def _link_in(report: Path, viewer: subprocess.Popen[bytes], began: float) -> str:
    """The link that the command reports once it serves.

    Raises:
        TimeoutError: if it does not.
    """
    while time.perf_counter() - began < _FIRST_PICTURE_LIMIT_S and viewer.poll() is None:
        try:
            return str(json.loads(report.read_text(encoding="utf-8"))["url"])
        except (OSError, ValueError):
            time.sleep(_EVERY_S)
    raise TimeoutError("the viewer did not start")


def _known(alpha: Tensor | None) -> Tensor:
    assert alpha is not None
    return alpha


def _difference(found: tuple[Tensor, Tensor], plain: Tensor) -> float:
    """Largest difference where the method trusts itself fully: elsewhere it draws less opaque."""
    rgb, alpha = found
    return float((rgb - plain)[alpha == 1].abs().max())


def _square(camera: Camera) -> Camera:
    return camera.resize(SIDE, SIDE)


def _square_picture(scene: Scene, i: int) -> Tensor:
    picture = photos_of_scene(scene, SIDE).pictures[i]
    small = nn.functional.interpolate(picture[None].float(), (SIDE, SIDE), mode="bilinear", antialias=True)[0]
    return small.round().to(torch.uint8)


def _rounds(calls: Mapping[str, Callable[[], object]], progress: Progress) -> list[dict[str, float]]:
    """Seconds of every call, round by round, so that all meet the same machine."""
    rounds = []
    for done in range(PAIRS):
        rounds.append({name: _seconds(call) for name, call in calls.items()})
        progress.advance(done + 1)
    return rounds


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _ratio(rounds: Sequence[dict[str, float]], slow: str, quick: str) -> float:
    return round(sorted(r[slow] / r[quick] for r in rounds)[len(rounds) // 2], 2)


def _middle(rounds: Sequence[dict[str, float]], name: str) -> float:
    return round(sorted(r[name] for r in rounds)[len(rounds) // 2], 3)


def _peak_mb(call: Callable[[], object]) -> float | None:
    """Largest memory of this process during a call above what it has before, MB; None where Linux does not tell."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
        before = _status_kb("VmRSS")
        call()
        return round((_status_kb("VmHWM") - before) / 1024, 1)
    except OSError:
        return None


def _status_kb(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise OSError(name)
