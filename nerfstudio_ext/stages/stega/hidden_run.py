"""A child run whose renders show its own decoder a hidden picture or sound, and the check by reading it back."""

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

from ...errors import UserError
from ...methods.config_json import config_to_data
from ...methods.marked import Marked
from ...metrics import ssim
from ...progress import Progress, SilentProgress
from ...renderer import RayRenderer
from ...scenes.model import Scene
from ...training.runs import OpenedRun, write_json
from .attacks import attack_file
from .hidden_extraction import extract_hidden, seal
from .hidden_payload import Hidden
from .hidden_picture import HiddenPicture, learn_null
from .keys import Key
from .mark_scene import Marking, SceneMarking, mark_scene
from .marked_run import DECODER_FILE, MARK_FILE, render_8bit, unseen_cameras, write_child
from .objective import Objective
from .picture_decoder import PictureDecoder, save_decoder
from .scale_search import View
from .scene_views import SceneView

_CHECKED_VIEWS = 8


@dataclass(frozen=True)
class HiddenCheck:
    """What the decoder sees in 8-bit renders at cameras the mark was not made with.

    Attributes:
        psnr: Marked against unmarked, mean, dB.
        worst_psnr: The same of the worst view.
        pictures: How many pictures were looked at.
        present: How many marked ones were told to be marked, by what was done to them.
        similarity: SSIM of what single marked pictures show with what was hidden, mean, likewise.
        false_alarms: How many unmarked ones were told to be marked, likewise.
    """

    psnr: float
    worst_psnr: float
    pictures: int
    present: dict[str, int]
    similarity: dict[str, float]
    false_alarms: dict[str, int]


@dataclass(frozen=True)
class HiddenRun:
    """A finished child run.

    Attributes:
        path: Its folder.
        kind: "image" or "audio".
        marking: The method and how embedding went.
        check: What reading it back gave.
    """

    path: Path
    kind: str
    marking: Marking
    check: HiddenCheck

    @property
    def decoder(self) -> Path:
        """The file that reads it; who has it has what is hidden."""
        return self.path / DECODER_FILE

    def to_json(self) -> dict[str, Any]:
        """Everything but the hidden picture and the key."""
        return {
            "schema": 1,
            "run": str(self.path),
            "kind": self.kind,
            "decoder": str(self.decoder),
            "touch_up_gain": self.marking.touch_up_gain,
            "told_apart": self.marking.status.accuracy,
            "check": dataclasses.asdict(self.check),
        }


def hide_in_run(
    parent: OpenedRun, scene: Scene | None, key: Key, hidden: Hidden, output_dir: Path, *,
    settings: SceneMarking | None = None, progress: Progress | None = None,
) -> HiddenRun:  # fmt: skip
    """Hide a picture or a sound in a run: train its colours and a decoder together, and write the child.

    Args:
        parent: The run; nothing in its folder changes.
        scene: Its capture with photos, or None where they are gone.
        key: Seals the decoder file, so that its owner can show that it is theirs; reading does not need it.
        hidden: What to hide.
        output_dir: The child goes to `output_dir/SCENE/marked/TIME`, with `decoder.safetensors` in it.
        settings: How.
        progress: Told about every stage.
    Raises:
        UserError: if the parent is marked already or its cameras see next to nothing.
        TrainingFailed: if the child cannot be written.
    """
    if isinstance(parent.method, Marked):
        raise UserError("this run is marked already", where=parent.path, fix="Mark its parent, which mark.json names")
    settings, progress = settings or SceneMarking(), progress or SilentProgress()
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)  # the layers' own initialisation takes no generator
        decoder = PictureDecoder(hidden.form)
    objective = HiddenPicture(decoder, hidden.values, seed=settings.seed, bfloat16=settings.embed.bfloat16)
    used: list[SceneView] = []

    def objective_of(views: Sequence[SceneView]) -> Objective:
        used.extend(views)
        return objective

    marking = mark_scene(
        parent.method, parent.config.method, parent.meta, scene, objective_of, settings, progress
    )  # fmt: skip
    progress.stage("learning what unmarked pictures look like")
    generator = torch.Generator().manual_seed(settings.seed + 2)
    learn_null(decoder, used, torch.tensor(parent.meta.background), generator, strength=settings.embed.strength)
    check = check_hidden(parent, marking.method, decoder, hidden, settings, progress)
    path = write_child(parent, marking, output_dir, settings)
    notes = {**hidden.notes, "payload_sha256": hidden.digest, "seal": seal(key, decoder, hidden.digest)}
    save_decoder(decoder, path / DECODER_FILE, notes)
    child = HiddenRun(path, hidden.form.kind, marking, check)
    write_json(path / MARK_FILE, {**child.to_json(), "parent": str(parent.path), "settings": config_to_data(settings)})
    return child


def check_hidden(
    parent: OpenedRun, marked: Marked, decoder: PictureDecoder, hidden: Hidden, settings: SceneMarking,
    progress: Progress,
) -> HiddenCheck:  # fmt: skip
    """Render unseen views of both runs and show them to the decoder, clean and as JPEG files of quality 75."""
    cameras = unseen_cameras(parent.meta, settings.size, _CHECKED_VIEWS, settings.seed + 1)
    progress.stage("reading it back", len(cameras))
    marked_pictures, plain_pictures, psnrs = [], [], []
    for done, camera in enumerate(cameras, start=1):
        plain_pictures.append(render_8bit(parent.renderer(), camera))
        marked_pictures.append(render_8bit(RayRenderer(marked.render_rays, parent.meta.background), camera))
        difference = marked_pictures[-1].astype(np.float64) - plain_pictures[-1]
        psnrs.append(-10 * math.log10(max(float(np.square(difference / 255).mean()), 1e-12)))
        progress.advance(done)
    present, similarity, false_alarms = {}, {}, {}
    for name, quality in (("clean", 100), ("JPEG q75", 75)):
        shown = [attack_file("jpeg", picture, quality) for picture in marked_pictures]
        unmarked = [attack_file("jpeg", picture, quality) for picture in plain_pictures]
        present[name] = sum(extract_hidden([View("", picture)], decoder).present for picture in shown)
        similarity[name] = float(np.mean([similarity_of(decoder, picture, hidden) for picture in shown]))
        false_alarms[name] = sum(extract_hidden([View("", picture)], decoder).present for picture in unmarked)
    return HiddenCheck(sum(psnrs) / len(psnrs), min(psnrs), len(cameras), present, similarity, false_alarms)


@torch.no_grad()
def similarity_of(decoder: PictureDecoder, picture: UInt8[np.ndarray, "H W 3"], hidden: Hidden) -> float:
    """SSIM of what a decoder sees in a picture with what was hidden, whatever the classifier says."""
    seen, _ = decoder(torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255)
    shape = (3, *seen.shape[2:])
    return ssim(seen[0].expand(shape).permute(1, 2, 0), hidden.values.expand(shape).permute(1, 2, 0))
