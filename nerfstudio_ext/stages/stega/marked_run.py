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
from ...training.photos import keep_photos
from ...training.runs import OpenedRun, Run, write_json
from .attacks import attack_file
from .extraction import extract
from .extractor import Extractor, load_extractor, save_extractor
from .identities import Owners, confusion_matrix, share_out
from .keys import Key
from .mark_scene import Marking, SceneMarking, mark_scene
from .messages import Layout, Message, smallest_layout
from .objective import CodeBits
from .private_bits import PrivateBits
from .scale_search import View
from .scene_views import SceneView, cameras_between, fit_size

MARK_FILE, DECODER_FILE = "mark.json", "decoder.safetensors"
_CHECKED_VIEWS = 8
_CERTAINTY = 20
"""Bits beside the payload that say that it was no accident: one in a million."""
_TOGETHER = 4


@dataclass(frozen=True)
class SelfCheck:
    """What is read from 8-bit renders at cameras the mark was not made with.

    Attributes:
        psnr: Marked against unmarked, mean, dB.
        worst_psnr: The same of the worst view.
        found: How many of the pictures give the exact message, each alone, by what was done to them.
        pictures: How many pictures were read.
        found_together: Whether four pictures together give it, likewise; with several owners, of each.
        bit_accuracy: Share of the code bits that single pictures have right, likewise.
        confusion: With several owners, for each (row) how many of its pictures were recognised as whose, the last
            column as nobody's; None with one.
    """

    psnr: float
    worst_psnr: float
    pictures: int
    found: dict[str, int]
    found_together: dict[str, bool]
    bit_accuracy: dict[str, float]
    confusion: list[list[int]] | None = None


@dataclass(frozen=True)
class MarkedRun:
    """A finished child run.

    Attributes:
        path: Its folder.
        layout: The code the message is written in.
        marking: The method and how embedding went.
        check: What reading it back gave.
        owners: Who owns which views.
    """

    path: Path
    layout: Layout
    marking: Marking
    check: SelfCheck
    owners: Owners

    def to_json(self) -> dict[str, Any]:
        """Everything but message and key."""
        return {
            "schema": 1,
            "run": str(self.path),
            "code": self.layout.name,
            "touch_up_gain": self.marking.touch_up_gain,
            "training_bit_accuracy": self.marking.status.accuracy,
            "check": dataclasses.asdict(self.check),
            "owners": self.owners.to_json(),
        }


def mark_run(
    parent: OpenedRun, scene: Scene | None, key: Key, message: Message, output_dir: Path, *,
    others: Sequence[Message] = (), settings: SceneMarking | None = None, layout: Layout | None = None,
    decoder: Path | None = None, is_private: bool = False, progress: Progress | None = None,
) -> MarkedRun:  # fmt: skip
    """Mark a run and write the marked child.

    Args:
        parent: The run to mark; nothing in its folder changes.
        scene: Its capture with photos, or None where they are gone.
        key: Needed for reading.
        message: What every picture of the scene will say; with several owners, the identity of the first.
        output_dir: The child goes to `output_dir/SCENE/marked/TIME`.
        others: Identities of further owners. Each owner gets a region of views, by where cameras stand.
        settings: How.
        layout: The code; None for the smallest that holds the message.
        decoder: Extractor to write for; a copy goes into the child. None for the public one.
        is_private: Train that extractor on with the scene; only the one that comes of it, which goes into the child,
            reads the mark well.
        progress: Told about every stage.
    Raises:
        UserError: if the parent is marked already, the message does not fit, owners are too similar, or the cameras
            see next to nothing. Whether the scene is too plain only the check of the result says.
        TrainingFailed: if the child cannot be written.
    """
    if isinstance(parent.method, Marked):
        raise UserError("this run is marked already", where=parent.path, fix="Mark its parent, which mark.json names")
    settings, progress = settings or SceneMarking(), progress or SilentProgress()
    extractor = load_extractor(decoder)
    layout = layout or smallest_layout(message, extractor.head.out_features)
    owners = share_out([message, *others], parent.meta.training_cameras(), key, layout)
    projection = torch.from_numpy(key.projection(layout.n))
    needed, bfloat16 = layout.k + _CERTAINTY, settings.embed.bfloat16
    objective = CodeBits(extractor, projection, needed=needed, bfloat16=bfloat16)
    if is_private:
        generator = torch.Generator().manual_seed(settings.seed + 1)
        objective = PrivateBits(extractor, projection, needed=needed, bfloat16=bfloat16, generator=generator)

    def objective_of(views: Sequence[SceneView]) -> CodeBits:
        objective.code_of = owners.code_of([view.camera for view in views])
        return objective

    marking = mark_scene(parent.method, parent.config.method, parent.meta, scene, objective_of, settings, progress)
    extractor = objective.extractor.eval()
    check = check_mark(parent, marking.method, extractor, key, owners, settings, progress)
    path = write_child(parent, marking, output_dir, settings)
    if decoder is not None or is_private:
        save_extractor(extractor, path / DECODER_FILE)
    child = MarkedRun(path, layout, marking, check, owners)
    write_json(path / MARK_FILE, {**child.to_json(), "parent": str(parent.path), "settings": config_to_data(settings)})
    return child


def check_mark(
    parent: OpenedRun, marked: Marked, extractor: Extractor, key: Key, owners: Owners, settings: SceneMarking,
    progress: Progress,
) -> SelfCheck:  # fmt: skip
    """Render unseen views of both runs and read the marked ones back, clean and as JPEG files of quality 75."""
    n_owners = len(owners.messages)
    cameras = unseen_cameras(parent.meta, settings.size, _CHECKED_VIEWS * n_owners, settings.seed + 1)
    progress.stage("reading the mark back", len(cameras))
    marked_pictures, errors = [], []
    for done, camera in enumerate(cameras, start=1):
        plain = render_8bit(parent.renderer(), camera)
        shown = render_8bit(RayRenderer(marked.render_rays, parent.meta.background), camera)
        marked_pictures.append(shown)
        errors.append(float(np.square((shown.astype(np.float64) - plain) / 255).mean()))
        progress.advance(done)
    ways = {"clean": marked_pictures, "JPEG q75": [attack_file("jpeg", picture, 75) for picture in marked_pictures]}
    whose = owners.of(list(cameras))
    messages = [owners.messages[number] for number in whose]
    found, together, accuracy = {}, {}, {}
    for name, pictures in ways.items():
        pairs = list(zip(pictures, messages, strict=True))
        readings = [extract([View("", p)], key, extractor=extractor, expected=[message]) for p, message in pairs]
        blind = [extract([View("", p)], key, extractor=extractor) for p in pictures]
        found[name] = sum(r.present and r.message == message for r, message in zip(blind, messages, strict=True))
        accuracy[name] = float(np.mean([reading.bit_accuracy or 0.5 for reading in readings]))
        together[name] = all(_reads_together(pairs, message, key, extractor) for message in set(messages))
    psnrs = [-10 * math.log10(max(error, 1e-12)) for error in errors]
    confusion = confusion_matrix(marked_pictures, whose, owners, key, extractor) if n_owners > 1 else None
    return SelfCheck(sum(psnrs) / len(psnrs), min(psnrs), len(cameras), found, together, accuracy, confusion)


def _reads_together(
    pairs: Sequence[tuple[UInt8[np.ndarray, "H W 3"], Message]], message: Message, key: Key, extractor: Extractor
) -> bool:
    """Whether the first pictures of an owner give its message when they are read together."""
    pictures = [picture for picture, own in pairs if own == message][:_TOGETHER]
    found = extract([View(str(i), p) for i, p in enumerate(pictures)], key, extractor=extractor)
    return found.present and found.message == message


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


def write_child(parent: OpenedRun, marking: Marking, output_dir: Path, settings: SceneMarking) -> Path:
    """Write a marked method as a run of its own; returns its folder. TrainingFailed if that cannot be done."""
    config = dataclasses.replace(
        parent.config, method=marking.method.config, changes=(*parent.config.changes, f"marked from {parent.path.name}")
    )
    with Run.create(output_dir, config, parent.meta) as run:
        keep_photos(marking.method, run.path)
        try:
            save_checkpoint(run.checkpoints, parent.step, marking.method.state_dict(), {})
        except CheckpointNotSaved as error:
            raise TrainingFailed(str(error)) from error
        return run.path
