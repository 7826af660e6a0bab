"""What is left of a run's mark after everything that happens to pictures and models, in one table."""

from __future__ import annotations

import copy
import dataclasses
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ...camera_paths import orbit
from ...cameras import Cameras
from ...methods.marked import Marked
from ...progress import Progress
from ...scenes.model import Scene, SceneMeta
from .base_views import BaseView, base_views
from .extraction import extract
from .extractor import MIN_SIDE
from .false_alarms import FalseAlarms, count_false_alarms
from .fidelity import Likeness, as_floats, likeness, photo_at_size
from .marked_run import held_out, unseen_cameras
from .ordeals import MODEL_ORDEALS, Picture, ReencodeFilm, picture_ordeals, suffer
from .procedural import procedural_pictures
from .reading_back import TOGETHER, ReadBack, Reader
from .scale_search import View
from .scene_views import fit_size

FILM = "H.264 film"
_FRAMES_PER_S = 24.0


@dataclass(frozen=True)
class RobustnessSettings:
    """How much is measured."""

    views: int = 8
    """Unseen views."""
    size: int = 400
    """Longer side of the pictures, pixels; that at which the run was marked."""
    groups: tuple[str, ...] | None = None
    """Kinds of ordeals of pictures; None for all."""
    film_frames: int = 24
    """Frames of the film; 0 leaves it out."""
    with_base: bool = True
    """Also damage the method beneath, which is rendered again each time."""
    alarm_pairs: int = 10_000
    """Picture-key pairs in the search for false alarms; 0 leaves it out."""
    seed: int = 0
    """Of noise, places and pictures."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        group: What kind of thing happened.
        amount: How much of it.
        read: What was read after it.
    """

    group: str
    amount: str
    read: ReadBack


@dataclass(frozen=True)
class Robustness:
    """What was measured on one marked run.

    Attributes:
        rows: The table.
        film_exact: Whether all frames of the film, read together, give the message; None without a film.
        likeness: Fidelity by what is compared with what.
        unmarked_alarms: Unmarked views that gave any message under the true key, of how many.
        alarms: Wrong keys; None when left out.
    """

    rows: tuple[Row, ...]
    film_exact: bool | None
    likeness: dict[str, Likeness]
    unmarked_alarms: tuple[int, int]
    alarms: FalseAlarms | None
    settings: RobustnessSettings = field(default_factory=RobustnessSettings)

    def to_json(self) -> dict[str, Any]:
        """Plain values; neither message nor key."""
        return {
            "rows": [{"group": r.group, "amount": r.amount, **dataclasses.asdict(r.read)} for r in self.rows],
            "film_exact": self.film_exact,
            "fidelity": {name: dataclasses.asdict(value) for name, value in self.likeness.items()},
            "unmarked_alarms": {"found": self.unmarked_alarms[0], "pictures": self.unmarked_alarms[1]},
            "false_alarms": None if self.alarms is None else dataclasses.asdict(self.alarms),
            "settings": dataclasses.asdict(self.settings),
        }


def measure_robustness(
    marked: Marked, meta: SceneMeta, scene: Scene | None, reader: Reader, settings: RobustnessSettings,
    reencode: ReencodeFilm, progress: Progress,
) -> Robustness:  # fmt: skip
    """Render unseen views of a marked run, do to them and to its parameters what may happen, and read them.

    Args:
        marked: The run; not changed.
        meta: Its capture.
        scene: The same with photos; None where they are gone.
        reader: Knows key and message.
        settings: How much.
        reencode: A video encoder and a player after it.
        progress: Told about every stage.
    Raises:
        UserError: if a kind of ordeal is unknown, or the video encoder fails.
    """
    return _Measurement(marked, meta, reader, settings, progress).run(scene, reencode)


class _Measurement:
    """The views of one run, and everything that is read from them."""

    def __init__(
        self, marked: Marked, meta: SceneMeta, reader: Reader, settings: RobustnessSettings, progress: Progress
    ) -> None:
        self.marked, self.meta, self.reader, self.settings, self.progress = marked, meta, reader, settings, progress
        self.cameras = unseen_cameras(meta, settings.size, settings.views, settings.seed + 1)
        progress.stage("rendering unseen views", len(self.cameras))
        self.views = base_views(marked.base, self.cameras, progress)
        self.pictures = self.shown(self.views)

    def shown(self, views: Sequence[BaseView], marked: Marked | None = None) -> list[Picture]:
        """Marked pictures of views."""
        colors = (marked or self.marked).correction
        return [view.picture(colors, self.meta.background) for view in views]

    def run(self, scene: Scene | None, reencode: ReencodeFilm) -> Robustness:
        rows = self.picture_rows()
        film, film_exact = self.film_rows(reencode)
        rows += film + self.model_rows()
        plain = [view.picture(None, self.meta.background) for view in self.views]
        generator = torch.Generator().manual_seed(self.settings.seed + 2)
        side = max(MIN_SIDE, min(self.pictures[0].shape[:2]))
        strangers = (255 * procedural_pictures(len(plain), side, generator)).round().byte().permute(0, 2, 3, 1).numpy()
        self.progress.stage("reading unmarked pictures", 2 * len(plain))
        found = 0
        for done, picture in enumerate([*plain, *strangers], start=1):
            found += extract([View("", picture)], self.reader.key, extractor=self.reader.extractor).present
            self.progress.advance(done)
        alarms = None
        if self.settings.alarm_pairs:
            alarms = count_false_alarms(
                [*plain, *strangers, *self.pictures], self.reader.key, self.reader.message, self.reader.layout,
                self.reader.extractor, self.settings.alarm_pairs, self.progress,
            )  # fmt: skip
        return Robustness(
            tuple(rows), film_exact, self.likeness(plain, scene), (found, 2 * len(plain)), alarms, self.settings
        )

    def picture_rows(self) -> list[Row]:
        ordeals = picture_ordeals(self.settings.groups)
        self.progress.stage("reading pictures after what happens to them", len(ordeals))
        rows = []
        for done, ordeal in enumerate(ordeals, start=1):
            seed = zlib.crc32(f"{ordeal.group} {ordeal.amount} {self.settings.seed}".encode())
            changed = [ordeal.change(picture, seed + i) for i, picture in enumerate(self.pictures)]
            readable = [picture for picture in changed if min(picture.shape[:2]) >= MIN_SIDE]
            if readable:
                rows.append(Row(ordeal.group, ordeal.amount, self.reader.read(readable)))
            else:
                self.progress.warn(f"{ordeal.group} {ordeal.amount} leaves less than {MIN_SIDE} pixels: left out")
            self.progress.advance(done, ordeal.group)
        return rows

    def film_rows(self, reencode: ReencodeFilm) -> tuple[list[Row], bool | None]:
        n_frames = self.settings.film_frames
        if not n_frames:
            return [], None
        self.progress.stage("rendering a film", n_frames)
        frames = self.shown(base_views(self.marked.base, film_cameras(self.meta, self.settings.size, n_frames),
                                       self.progress))  # fmt: skip
        played = reencode(frames)
        self.progress.stage("reading the film", None)
        few = played[:: max(1, len(played) // (2 * TOGETHER))]
        return [Row(FILM, f"{n_frames} frames", self.reader.read(few))], self.reader.is_exact(played)

    def model_rows(self) -> list[Row]:
        self.progress.stage("reading damaged models", len(MODEL_ORDEALS) * (1 + self.settings.with_base))
        rows: list[Row] = []
        for name, change in MODEL_ORDEALS.items():
            generator = torch.Generator().manual_seed(self.settings.seed)
            damaged = copy.deepcopy(self.marked)
            suffer(damaged.correction.parameters(), change, generator)
            rows.append(Row("colours", name, self.reader.read(self.shown(self.views, damaged))))
            self.progress.advance(len(rows), name)
            if self.settings.with_base:
                suffer(damaged.base.parameters(), change, generator)
                views = base_views(damaged.base, self.cameras)
                rows.append(Row("whole model", name, self.reader.read(self.shown(views, damaged))))
                self.progress.advance(len(rows), name)
        return sorted(rows, key=lambda row: row.group)

    def likeness(self, plain: Sequence[Picture], scene: Scene | None) -> dict[str, Likeness]:
        found = {"marked against unmarked": likeness(self.pictures, [as_floats(picture) for picture in plain])}
        positions = held_out(self.meta, self.settings.views)
        if scene is not None and positions:
            pairs = zip(positions, self.cameras, strict=True)
            photos = [photo_at_size(scene, place, camera.width, camera.height) for place, camera in pairs]
            found["marked against photos"] = likeness(self.pictures, photos)
            found["unmarked against photos"] = likeness(plain, photos)
        return found


def film_cameras(meta: SceneMeta, size: int, n_frames: int) -> Cameras:
    """Cameras of a short flight around what the capture shows; sides are even, as video encoders want them."""
    cameras = meta.training_cameras().select(list(meta.split.train))
    like = fit_size(cameras[0], size)
    up = meta.frame.rotation[:, 2].tolist()
    path = orbit(
        cameras, seconds=n_frames / _FRAMES_PER_S, fps=_FRAMES_PER_S, up=(up[0], up[1], up[2]),
        size=(max(2, like.width // 2 * 2), max(2, like.height // 2 * 2)),
    )  # fmt: skip
    return path.cameras
