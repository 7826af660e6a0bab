"""A marked child of a run: marking it, writing it into a run folder of its own, and checking it by reading it back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from ...cameras import Camera, Cameras
from ...errors import TrainingFailed, UserError
from ...methods.config_json import config_to_data
from ...methods.marked import Marked
from ...progress import Progress, SilentProgress
from ...renderer import RayRenderer
from ...scenes.model import Scene, SceneMeta
from ...training.checkpoints import CheckpointNotSaved, save_checkpoint
from ...training.runs import OpenedRun, Run, write_json
from .attacks import attack_file
from .extraction import extract
from .extractor import Extractor, load_extractor, save_extractor
from .keys import Key
from .mark_scene import Marking, SceneMarking, mark_scene
from .messages import Layout, Message, smallest_layout
from .objective import CodeBits
from .payload import write_code
from .scale_search import View
from .scene_views import SceneView, cameras_between, fit_size

MARK_FILE, DECODER_FILE = "mark.json", "decoder.safetensors"
_CHECKED_VIEWS = 8
_TOGETHER = 4


@dataclass(frozen=True)
class SelfCheck:
    """What is read from 8-bit renders at cameras the mark was not made with.

    Attributes:
        psnr: Marked against unmarked, mean, dB.
        worst_psnr: The same of the worst view.
        found: How many of the pictures give the exact message, each alone, by what was done to them.
        pictures: How many pictures were read.
        found_together: Whether four pictures together give it, likewise.
        bit_accuracy: Share of the code bits that single pictures have right, likewise.
    """

    psnr: float
    worst_psnr: float
    pictures: int
    found: dict[str, int]
    found_together: dict[str, bool]
    bit_accuracy: dict[str, float]


@dataclass(frozen=True)
class MarkedRun:
    """A finished child run.

    Attributes:
        path: Its folder.
        layout: The code the message is written in.
        marking: The method and how embedding went.
        check: What reading it back gave.
    """

    path: Path
    layout: Layout
    marking: Marking
    check: SelfCheck

    def to_json(self) -> dict[str, Any]:
        """Everything but message and key."""
        return {
            "schema": 1,
            "run": str(self.path),
            "code": self.layout.name,
            "touch_up_gain": self.marking.touch_up_gain,
            "training_bit_accuracy": self.marking.status.accuracy,
            "check": dataclasses.asdict(self.check),
        }


def mark_run(
    parent: OpenedRun, scene: Scene | None, key: Key, message: Message, output_dir: Path, *,
    settings: SceneMarking | None = None, layout: Layout | None = None, decoder: Path | None = None,
    progress: Progress | None = None,
) -> MarkedRun:  # fmt: skip
    """Mark a run and write the marked child.

    Args:
        parent: The run to mark; nothing in its folder changes.
        scene: Its capture with photos, or None where they are gone.
        key: Needed for reading.
        message: What every picture of the scene will say.
        output_dir: The child goes to `output_dir/SCENE/marked/TIME`.
        settings: How.
        layout: The code; None for the smallest that holds the message.
        decoder: Private extractor to write for; a copy goes into the child. None for the public one.
        progress: Told about every stage.
    Raises:
        UserError: if the parent is marked already, the message does not fit, or the scene is too plain.
        TrainingFailed: if the child cannot be written.
    """
    if isinstance(parent.method, Marked):
        raise UserError("this run is marked already", where=parent.path, fix="Mark its parent, which mark.json names")
    settings, progress = settings or SceneMarking(), progress or SilentProgress()
    extractor = load_extractor(decoder)
    layout = layout or smallest_layout(message, extractor.head.out_features)
    bits = write_code(message, key, layout)
    signs = 2 * torch.from_numpy(bits.astype(np.float32)) - 1
    objective = CodeBits(
        extractor, torch.from_numpy(key.projection(layout.n)), lambda _: signs, bfloat16=settings.embed.bfloat16
    )
    marking = mark_scene(
        parent.method, parent.config.method, parent.meta, scene, lambda _: objective, settings, progress
    )
    check = check_mark(parent, marking.method, extractor, key, message, settings, progress)
    path = _write_child(parent, marking, output_dir, settings)
    if decoder is not None:
        save_extractor(extractor, path / DECODER_FILE)
    child = MarkedRun(path, layout, marking, check)
    write_json(path / MARK_FILE, {**child.to_json(), "parent": str(parent.path), "settings": config_to_data(settings)})
    return child


def check_mark(
    parent: OpenedRun, marked: Marked, extractor: Extractor, key: Key, message: Message, settings: SceneMarking,
    progress: Progress,
) -> SelfCheck:  # fmt: skip
    """Render unseen views of both runs and read the marked ones back, clean and as JPEG files of quality 75."""
    cameras = unseen_cameras(parent.meta, settings.size, _CHECKED_VIEWS, settings.seed + 1)
    progress.stage("reading the mark back", len(cameras))
    marked_pictures, errors = [], []
    for done, camera in enumerate(cameras, start=1):
        plain = render_8bit(parent.renderer(), camera)
        shown = render_8bit(RayRenderer(marked.render_rays, parent.meta.background), camera)
        marked_pictures.append(shown)
        errors.append(float(np.square((shown.astype(np.float64) - plain) / 255).mean()))
        progress.advance(done)
    ways = {"clean": marked_pictures, "JPEG q75": [attack_file("jpeg", picture, 75) for picture in marked_pictures]}
    found, together, accuracy = {}, {}, {}
    for name, pictures in ways.items():
        readings = [extract([View("", p)], key, extractor=extractor, expected=[message]) for p in pictures]
        blind = [extract([View("", p)], key, extractor=extractor) for p in pictures]
        found[name] = sum(reading.present and reading.message == message for reading in blind)
        accuracy[name] = float(np.mean([reading.bit_accuracy or 0.5 for reading in readings]))
        four = extract([View(str(i), p) for i, p in enumerate(pictures[:_TOGETHER])], key, extractor=extractor)
        together[name] = four.present and four.message == message
    psnrs = [-10 * math.log10(max(error, 1e-12)) for error in errors]
    return SelfCheck(sum(psnrs) / len(psnrs), min(psnrs), len(cameras), found, together, accuracy)


def unseen_cameras(meta: SceneMeta, size: int, count: int, seed: int) -> Cameras:
    """Held-out cameras of a capture, or ones between the others where none was held out."""
    cameras, held = meta.training_cameras(), held_out(meta, count)
    if held:
        picked = cameras.select(held)
    else:
        generator = torch.Generator().manual_seed(seed)
        picked = cameras_between(cameras.select(meta.split.train), count, generator)
    return Cameras([fit_size(camera, size) for camera in picked])


def held_out(meta: SceneMeta, count: int) -> list[int]:
    """Positions of at most so many held-out photos, spread evenly; empty where none was held out."""
    held = meta.split.test
    n = min(count, len(held))
    return [held[i * len(held) // n] for i in range(n)]


def render_8bit(renderer: RayRenderer, camera: Camera) -> UInt8[np.ndarray, "H W 3"]:
    """A picture as it would be saved."""
    return (renderer.render(camera).rgb * 255).round().to(torch.uint8).numpy()


def _write_child(parent: OpenedRun, marking: Marking, output_dir: Path, settings: SceneMarking) -> Path:
    config = dataclasses.replace(
        parent.config, method=marking.method.config, changes=(*parent.config.changes, f"marked from {parent.path.name}")
    )
    with Run.create(output_dir, config, parent.meta) as run:
        try:
            save_checkpoint(run.checkpoints, parent.step, marking.method.state_dict(), {})
        except CheckpointNotSaved as error:
            raise TrainingFailed(str(error)) from error
        return run.path


def owners_of(views: Sequence[SceneView], cameras: Cameras, owner_of_camera: Sequence[int]) -> list[int]:
    """The owner of each view: that of the nearest camera, by place and direction."""
    places, forward = cameras.c2w[:, :, 3], cameras.c2w[:, :, 2]
    spread = float((places - places.mean(0)).norm(dim=1).mean()) or 1.0
    owners = []
    for view in views:
        away = (places - view.camera.c2w[:, 3]).norm(dim=1) / spread
        turned = (forward - view.camera.c2w[:, 2]).norm(dim=1)
        owners.append(owner_of_camera[int((away + turned).argmin())])
    return owners
