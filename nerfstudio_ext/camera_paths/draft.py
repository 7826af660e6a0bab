"""A camera path while it is edited: key frames and how to fly through them. Every change returns a new draft."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ..cameras import Camera, Cameras
from ..errors import UserError
from ..lenses import Lens, LensKind
from .curves import Array, KeyCurve, distinct
from .generate import sample_curve
from .path import CameraPath, CropBox, KeyView, check_fps, check_size, frame_count

LENSES: tuple[LensKind, ...] = ("perspective", "fisheye", "equirectangular")
MIN_TRANSITION_S, MAX_TRANSITION_S = 0.05, 600.0
MAX_KEYS = 1000
OWN_ENTRIES = ("smoothness_value", "default_fov", "default_transition_sec", "default_time", "even_speed")
"""Top-level entries of the file that this editor reads and writes itself."""


@dataclass(frozen=True)
class DraftKey:
    """One key frame.

    Attributes:
        c2w: Camera-to-world in the training frame, OpenCV axes, float64.
        fov_y_deg: Vertical field of view; None uses the draft's.
        transition_s: Seconds to the next key; None uses the draft's.
        extra: What other programs keep per key, carried along unread.
    """

    c2w: Float[Tensor, "3 4"]
    fov_y_deg: float | None = None
    transition_s: float | None = None
    extra: Mapping[str, object] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class PathDraft:
    """Key frames and the settings of the flight through them.

    Attributes:
        keys: In the order they are passed.
        is_loop: Whether the path returns to the first key.
        tension: 0 is the smoothest curve, 1 straight lines from key to key.
        is_even: Fly at one speed throughout (the whole time is the sum of the transitions); else each key is reached
            when the transitions before it have passed.
        fov_y_deg: Vertical field of view of keys that have none of their own.
        transition_s: Seconds between keys that have none of their own.
        fps: Frames per second.
        size: (width, height) of the pictures.
        lens: Kind of camera.
        crop: Crop box that the path carries.
        extra: Unread top-level entries of the file it came from.
    """

    keys: tuple[DraftKey, ...] = ()
    is_loop: bool = False
    tension: float = 0.0
    is_even: bool = True
    fov_y_deg: float = 60.0
    transition_s: float = 2.0
    fps: float = 24.0
    size: tuple[int, int] = (1280, 720)
    lens: LensKind = "perspective"
    crop: CropBox | None = None
    extra: Mapping[str, object] = dataclasses.field(default_factory=dict)

    def changed(self, **changes: object) -> PathDraft:
        """The draft with other settings, checked.

        Raises:
            UserError: for values that no path can have.
        """
        draft = dataclasses.replace(self, **changes)  # type: ignore[arg-type]
        check_size(*draft.size)
        check_fps(draft.fps)
        _check_fov(draft.fov_y_deg)
        _check_transition(draft.transition_s)
        if not 0 <= draft.tension <= 1:
            raise UserError(f"a tension of {draft.tension:g}", fix="Choose 0 (smooth) to 1 (straight lines)")
        if len(draft.keys) > MAX_KEYS:
            raise UserError(f"{len(draft.keys)} key frames", fix=f"Use at most {MAX_KEYS}")
        return draft

    def added(self, key: DraftKey, after: int | None = None) -> PathDraft:
        """With a key behind another one, or at the end."""
        at = len(self.keys) if after is None else self._checked(after) + 1
        return self.changed(keys=(*self.keys[:at], key, *self.keys[at:]))

    def with_key(self, index: int, **changes: object) -> PathDraft:
        """With one key changed."""
        index = self._checked(index)
        key = dataclasses.replace(self.keys[index], **changes)  # type: ignore[arg-type]
        if key.fov_y_deg is not None:
            _check_fov(key.fov_y_deg)
        if key.transition_s is not None:
            _check_transition(key.transition_s)
        return self.changed(keys=(*self.keys[:index], key, *self.keys[index + 1 :]))

    def duplicated(self, index: int) -> PathDraft:
        """With a copy of a key behind it."""
        return self.added(self.keys[self._checked(index)], index)

    def without(self, index: int) -> PathDraft:
        """Without a key."""
        index = self._checked(index)
        return self.changed(keys=(*self.keys[:index], *self.keys[index + 1 :]))

    def moved(self, index: int, by: int) -> PathDraft:
        """With a key earlier or later by so many places; the ends are as far as it gets."""
        keys = list(self.keys)
        key = keys.pop(self._checked(index))
        keys.insert(min(max(index + by, 0), len(keys)), key)
        return self.changed(keys=tuple(keys))

    def reversed(self) -> PathDraft:
        """The keys in the opposite order, each transition still between its two keys."""
        n = len(self.keys)
        keys = []
        for place, key in enumerate(reversed(self.keys)):
            before = self.keys[(n - 2 - place) % n] if n else key
            keys.append(dataclasses.replace(key, transition_s=before.transition_s))
        return self.changed(keys=tuple(keys))

    def key_fov_deg(self, index: int) -> float:
        """Vertical field of view at a key."""
        own = self.keys[self._checked(index)].fov_y_deg
        return self.fov_y_deg if own is None else own

    @property
    def times(self) -> Array:
        """Seconds at which each key is reached (and the return to the first, of a loop)."""
        steps = [self.transition_s if key.transition_s is None else key.transition_s for key in self.keys]
        return np.concatenate([[0.0], np.cumsum(steps if self.is_loop else steps[:-1])])

    @property
    def seconds(self) -> float:
        """Playing time."""
        return float(self.times[-1]) if len(self.keys) > 1 else 0.0

    def curve(self) -> KeyCurve:
        """The curve through the keys; see `KeyCurve`.

        Raises:
            UserError: with fewer than two different keys.
        """
        c2w = np.stack([key.c2w.numpy() for key in self.keys]) if self.keys else np.zeros((0, 3, 4))
        kept = distinct(c2w[:, :, 3], c2w[:, :, :3]) if len(c2w) else []
        if len(kept) < len(self.keys) or len(kept) < 2:
            what = f"{len(kept)} different key frames" if len(kept) < 2 else "two key frames in a row are the same"
            raise UserError(what, where="camera path", fix="Set at least two key frames, each apart from the last")
        shorter = min(self.size) / self.size[1]
        fovs = [math.radians(self.key_fov_deg(i)) for i in range(len(self.keys))]
        focals = np.log([0.5 / math.tan(fov / 2) / shorter for fov in fovs])
        return KeyCurve(c2w[:, :, 3], c2w[:, :, :3], focals, is_loop=self.is_loop, tension=self.tension)

    def to_path(self) -> CameraPath:
        """The cameras to render.

        Raises:
            UserError: with fewer than two different keys, or for too many frames.
        """
        curve = self.curve()
        n = frame_count(self.seconds, self.fps)
        if self.is_even:
            u = curve.uniform(n, with_end=not self.is_loop)
        else:
            u = curve.timed(self.times, np.linspace(0, self.seconds, n, endpoint=not self.is_loop))
        template = dataclasses.replace(Camera.perspective(*self.size, 60.0, self.keys[0].c2w), lens=Lens(self.lens))
        extra = dict(self.extra) | {
            "smoothness_value": self.tension,
            "default_fov": self.fov_y_deg,
            "default_transition_sec": self.transition_s,
            "even_speed": self.is_even,
        }
        return CameraPath(
            Cameras(sample_curve(curve, u, template)),
            self.fps,
            "edited path",
            is_loop=self.is_loop,
            keys=tuple(self._key_view(i) for i in range(len(self.keys))),
            crop=self.crop,
            extra=extra,
        )

    def _key_view(self, index: int) -> KeyView:
        key = self.keys[index]
        return KeyView(key.c2w, self.key_fov_deg(index), self.size[0] / self.size[1], key.transition_s, key.extra)

    def _checked(self, index: int) -> int:
        if not 0 <= index < len(self.keys):
            raise UserError(f"there is no key frame {index + 1}", fix="Choose one that exists")
        return index


def draft_from_path(path: CameraPath) -> PathDraft:
    """The editable form of a path: its key frames, or for a path without them some of its frames.

    Args:
        path: A path in the training frame, as read from a file.
    """
    size = path.size or (1280, 720)
    fov = _number(path.extra.get("default_fov"), 60.0)
    keys = [
        DraftKey(key.c2w, None if abs(key.fov_y_deg - fov) < 1e-3 else key.fov_y_deg, key.transition_s, key.extra)
        for key in path.keys
    ]
    default_s = _number(path.extra.get("default_transition_sec"), 2.0)
    if not keys:
        step = max(1, math.ceil(len(path) / 24))
        chosen = list(path.cameras)[::step]
        keys = [DraftKey(camera.c2w, _fov_y_deg(camera)) for camera in chosen]
    if "default_transition_sec" not in path.extra:
        n_steps = max(1, len(keys) if path.is_loop else len(keys) - 1)
        default_s = min(max(path.seconds / n_steps, MIN_TRANSITION_S), MAX_TRANSITION_S)
    kind = path.cameras[0].lens.kind
    return PathDraft(
        is_loop=path.is_loop,
        tension=min(max(_number(path.extra.get("smoothness_value"), 0.0), 0.0), 1.0),
        is_even=bool(path.extra.get("even_speed", True)),
        crop=path.crop,
        lens=kind if kind in LENSES else "perspective",
        extra={name: value for name, value in path.extra.items() if name not in OWN_ENTRIES},
    ).changed(keys=tuple(keys), fps=path.fps, size=size, fov_y_deg=fov, transition_s=default_s)


def _fov_y_deg(camera: Camera) -> float | None:
    if camera.lens.kind == "equirectangular":
        return None
    return math.degrees(2 * math.atan(0.5 * camera.height / float(camera.K[1, 1])))


def _number(value: object, default: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return default
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        return default
    return number if math.isfinite(number) and number else default


def _check_fov(fov_y_deg: float) -> None:
    if not 0.1 <= fov_y_deg <= 175:
        raise UserError(f"a field of view of {fov_y_deg:g} degrees", fix="Choose 0.1 to 175 degrees")


def _check_transition(seconds: float) -> None:
    if not MIN_TRANSITION_S <= seconds <= MAX_TRANSITION_S:
        raise UserError(
            f"a transition of {seconds:g} seconds", fix=f"Choose {MIN_TRANSITION_S:g} to {MAX_TRANSITION_S:g} seconds"
        )


__all__ = ["LENSES", "DraftKey", "PathDraft", "draft_from_path"]
