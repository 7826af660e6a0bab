"""Where the photos were taken, as inline SVG: the cameras and sparse points seen from above and from the side."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

import numpy as np
from jaxtyping import Float

from ..scenes.model import SceneMeta

SIZE = 340
_MARGIN = 26
_MAX_POINTS = 900
_FAR = 3.0
"""Points farther out than this many camera extents do not widen the picture."""

Flat = Float[np.ndarray, "N 2"]


def camera_layout(meta: SceneMeta) -> list[tuple[str, str]]:
    """(caption, `<svg>`) of the capture from above and from the side, with the source's +Z up.

    Training cameras, held-out cameras, sparse points and the inner cube [-0.5, 0.5]^3 are drawn.
    """
    upright = meta.frame.rotation.numpy()  # x_training @ R = R^T x_training: the axes of the source
    c2w = meta.training_cameras().c2w.numpy()
    views = _Views(c2w[:, :, 3] @ upright, c2w[:, :, 2] @ upright, c2w[:, :, 0] @ upright)
    points = _sparse_points(meta) @ upright
    pictures = (("From above", (0, 1)), ("From the side", (0, 2)))
    return [(caption, _picture(meta, views, points, list(axes))) for caption, axes in pictures]


@dataclass(frozen=True)
class _Views:
    """Centres, viewing directions and rightward axes of all cameras, [V,3] each."""

    centres: np.ndarray
    forward: np.ndarray
    right: np.ndarray


def _picture(meta: SceneMeta, views: _Views, points: np.ndarray, axes: list[int]) -> str:
    flat = views.centres[:, axes]
    low, high = _extent(flat)
    scale = (SIZE - 2 * _MARGIN) / max(float((high - low).max()), 1e-9)
    middle = (low + high) / 2

    def place(x: np.ndarray) -> np.ndarray:
        return (x - middle) * scale * np.array([1, -1]) + SIZE / 2

    parts = [_dots(place(points[:, axes]))] if len(points) else []
    corners = place(np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]))
    parts.append('<path class="cube" d="M' + "L".join(f"{x:.1f} {y:.1f}" for x, y in corners) + 'Z"/>')
    for kind, indices in (("train", meta.split.train), ("test", sorted({*meta.split.val, *meta.split.test}))):
        for i in indices:
            wedge = _wedge(place(flat[i]), views.forward[i, axes], views.right[i, axes])
            parts.append(f'<path class="camera {kind}" d="{wedge}"><title>{escape(meta.image_names[i])}</title></path>')
    drawing = "".join(parts)
    return f'<svg class="layout" viewBox="0 0 {SIZE} {SIZE}" role="img" aria-label="camera positions">{drawing}</svg>'


def _extent(flat: Flat) -> tuple[np.ndarray, np.ndarray]:
    """What the picture shows: all cameras but far strays, and the inner cube."""
    good = flat[np.isfinite(flat).all(1)]
    if len(good):
        centre = np.median(good, 0)
        distance = np.abs(good - centre).max(1)
        good = good[distance <= _FAR * max(float(np.median(distance)), 1e-9) + 1e-9]
    shown = np.concatenate([good, np.full((1, 2), -0.5), np.full((1, 2), 0.5)])
    return shown.min(0), shown.max(0)


def _wedge(at: np.ndarray, forward: np.ndarray, right: np.ndarray) -> str:
    """A small triangle from the camera towards what it sees; blunt when it looks along the line of sight."""
    length, half = 13.0, 7.0
    ahead = at + length * forward * np.array([1, -1])
    aside = half * right * np.array([1, -1])
    if np.hypot(*aside) < 5:  # seen from its side: give it some width
        normal = np.array([-forward[1], -forward[0]])
        aside = 5.0 * normal / max(float(np.hypot(*normal)), 1e-9)
    corners = (at, ahead + aside, ahead - aside)
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in corners) + "Z"


def _dots(places: Flat) -> str:
    inside = places[((places > 2) & (places < SIZE - 2)).all(1)]
    return '<path class="points" d="' + "".join(f"M{x:.1f} {y:.1f}h0" for x, y in inside) + '"/>'


def _sparse_points(meta: SceneMeta) -> np.ndarray:
    """At most `_MAX_POINTS` sparse points in the training frame."""
    if meta.points is None or len(meta.points) == 0:
        return np.zeros((0, 3))
    step = max(1, math.ceil(len(meta.points) / _MAX_POINTS))
    source = meta.points[::step].astype(np.float64)
    source = source[np.isfinite(source).all(1)]
    frame = meta.frame
    return frame.scale * source @ frame.rotation.numpy().T + frame.translation.numpy()
