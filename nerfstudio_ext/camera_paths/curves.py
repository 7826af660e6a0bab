"""Smooth curves through key views: position, orientation and focal length at once.

Centripetal Catmull-Rom by Barry and Goldman's pyramid of linear interpolations. The same pyramid with slerp in
place of lerp gives the orientation (Schlag 1991), so all parts share their knots and pass through every key.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
STEPS_PER_SEGMENT = 64
"""Chords per segment when its length is measured; the speed is then uniform to about 0.1 %."""


class KeyCurve:
    """A curve of (position, orientation, log focal) through K >= 2 keys.

    Knots lie at the square root of the distance between neighbours (centripetal: no cusps or loops), where
    distance counts translation and rotation alike: one radian weighs as much as the typical translation per radian.

    Args:
        positions: Key positions.
        rotations: Key orientations as rotation matrices.
        log_focals: Log of the focal length, in any unit.
        is_loop: Whether the curve returns from the last key to the first.
        knots: Parameter of each key (and of the return to the first, if looping), ascending; None chooses as above.
        tension: 0 is that curve, 1 the straight lines between the keys, and what lies between is a mixture of both.
    Two neighbouring keys must differ (see `distinct`), unless knots are given.
    """

    def __init__(
        self,
        positions: Float[np.ndarray, "K 3"],
        rotations: Float[np.ndarray, "K 3 3"],
        log_focals: Float[np.ndarray, " K"],
        *,
        is_loop: bool = False,
        knots: Float[np.ndarray, " M"] | None = None,
        tension: float = 0.0,
    ) -> None:
        self.tension = tension
        quaternions = aligned(quaternions_from_matrices(rotations))
        keys = (np.asarray(positions, float), quaternions, np.asarray(log_focals, float)[:, None])
        self.radian_weight = radian_weight(keys[0], keys[1])
        if is_loop:
            keys = tuple(np.concatenate([k, k[:1]]) for k in keys)  # type: ignore[assignment]
            keys = (keys[0], aligned(keys[1]), keys[2])
        spacing = _distances(keys[0], keys[1], self.radian_weight) ** 0.5 if knots is None else np.diff(knots)
        self.knots = np.concatenate([[0.0], np.cumsum(spacing)]) if knots is None else np.asarray(knots, float)
        before, after = (spacing[-1], spacing[0]) if is_loop else (spacing[0], spacing[-1])
        self._knots = np.concatenate([[self.knots[0] - before], self.knots, [self.knots[-1] + after]])
        self._keys = [_with_ends(k, mix, is_loop) for k, mix in zip(keys, (_lerp, _slerp, _lerp), strict=True)]

    def at(self, u: Float[np.ndarray, " N"]) -> tuple[Array, Array, Array]:
        """Positions [N,3], rotation matrices [N,3,3] and log focals [N] at parameters within the knots."""
        u = np.clip(u, self.knots[0], self.knots[-1])
        segment = np.clip(np.searchsorted(self.knots, u, side="right") - 1, 0, len(self.knots) - 2)
        t = [self._knots[segment + j] for j in range(4)]
        parts = []
        for keys, mix in zip(self._keys, (_lerp, _slerp, _lerp), strict=True):
            near = [keys[segment + j] for j in range(4)]
            value = _pyramid(near, t, u, mix)
            if self.tension > 0:
                straight = mix(near[1], near[2], (u - t[1]) / (t[2] - t[1]))
                value = mix(value, straight, np.full(len(u), self.tension))
            parts.append(value)
        return parts[0], matrices_from_quaternions(parts[1]), parts[2][:, 0]

    def uniform(self, n: int, *, with_end: bool = True) -> Array:
        """`n` parameters at equal distances along the curve; `with_end` puts the last one at its end."""
        u, length = self._lengths()
        return np.interp(np.linspace(0, length[-1], n, endpoint=with_end), length, u)

    def timed(self, key_times: Float[np.ndarray, " M"], times: Float[np.ndarray, " N"]) -> Array:
        """Parameters at given times when each key has its own: no jerk at a key, never backwards.

        The distance flown is a monotone cubic of time through (time, distance) of the keys (Fritsch and Carlson 1980).
        """
        u, length = self._lengths()
        at_keys = np.interp(self.knots, u, length)
        return np.interp(_monotone_cubic(np.asarray(key_times, float), at_keys, times), length, u)

    def _lengths(self) -> tuple[Array, Array]:
        """Parameters along the curve and the distance flown up to each."""
        u = np.concatenate(
            [
                np.linspace(a, b, STEPS_PER_SEGMENT, endpoint=False)
                for a, b in zip(self.knots, self.knots[1:], strict=False)
            ]
            + [self.knots[-1:]]
        )
        positions, rotations, _ = self.at(u)
        steps = _distances(positions, aligned(quaternions_from_matrices(rotations)), self.radian_weight)
        return u, np.concatenate([[0.0], np.cumsum(steps)])


def distinct(positions: Float[np.ndarray, "K 3"], rotations: Float[np.ndarray, "K 3 3"]) -> list[int]:
    """Indices of the keys that differ from the one kept before them."""
    extent = max(float(np.ptp(positions, axis=0).max()), 1e-12)
    kept = [0]
    for i in range(1, len(positions)):
        moved = np.linalg.norm(positions[i] - positions[kept[-1]]) / extent
        turned = np.abs(rotations[i] - rotations[kept[-1]]).max()
        if moved > 1e-6 or turned > 1e-6:
            kept.append(i)
    return kept


def quaternions_from_matrices(rotations: Float[np.ndarray, "N 3 3"]) -> Float[np.ndarray, "N 4"]:
    """Unit quaternions (w, x, y, z) of proper rotations.

    Each is the eigenvector of Bar-Itzhack's matrix for its largest eigenvalue: stable for every angle.
    """
    m = np.asarray(rotations, float)
    K = np.empty((*m.shape[:-2], 4, 4))
    off = {(0, 1): (2, 1, 1, 2), (0, 2): (0, 2, 2, 0), (0, 3): (1, 0, 0, 1)}
    for (i, j), (a, b, c, d) in off.items():
        K[..., i, j] = K[..., j, i] = m[..., a, b] - m[..., c, d]
    for (i, j), (a, b) in {(1, 2): (0, 1), (1, 3): (0, 2), (2, 3): (1, 2)}.items():
        K[..., i, j] = K[..., j, i] = m[..., a, b] + m[..., b, a]
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    for i, value in enumerate((xx + yy + zz, xx - yy - zz, yy - xx - zz, zz - xx - yy)):
        K[..., i, i] = value
    return np.linalg.eigh(K)[1][..., :, -1]


def matrices_from_quaternions(q: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, "N 3 3"]:
    """Rotation matrices of (w, x, y, z) quaternions of any length."""
    w, x, y, z = np.moveaxis(q / np.linalg.norm(q, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def aligned(q: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, "N 4"]:
    """The same orientations with signs chosen so that neighbours lie less than 180 degrees apart."""
    flips = np.where(np.sum(q[1:] * q[:-1], -1) < 0, -1.0, 1.0)
    return q * np.concatenate([[1.0], np.cumprod(flips)])[:, None]


def radian_weight(positions: Float[np.ndarray, "K 3"], q: Float[np.ndarray, "K 4"]) -> float:
    """Length that one radian counts for: the translation per radian along the keys."""
    moved = float(np.linalg.norm(np.diff(positions, axis=0), axis=1).sum())
    turned = float(_angles(q).sum())
    return moved / turned if moved > 0 and turned > 1e-9 else 1.0


def _monotone_cubic(x: Array, y: Array, at: Array) -> Array:
    """Values of the monotone cubic through ascending points; slopes are limited harmonic means of the neighbours'."""
    width, slope = np.diff(x), np.diff(y) / np.diff(x)
    tangent = np.concatenate([slope[:1], np.zeros(len(slope) - 1), slope[-1:]])
    if len(slope) > 1:
        before, after = slope[:-1], slope[1:]
        weight_before, weight_after = width[:-1] + 2 * width[1:], 2 * width[:-1] + width[1:]
        positive = (before > 0) & (after > 0)
        mean = (weight_before + weight_after) / (
            weight_before / np.where(positive, before, 1.0) + weight_after / np.where(positive, after, 1.0)
        )
        tangent[1:-1] = np.where(positive, mean, 0.0)
    i = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(width) - 1)
    t = np.clip((at - x[i]) / width[i], 0, 1)
    ends = (1 + 2 * t) * (1 - t) ** 2 * y[i] + t * t * (3 - 2 * t) * y[i + 1]
    return np.asarray(ends + width[i] * (t * (1 - t) ** 2 * tangent[i] - t * t * (1 - t) * tangent[i + 1]))


def _angles(q: Array) -> Array:
    return 2 * np.arccos(np.clip(np.abs(np.sum(q[1:] * q[:-1], -1)), 0, 1))


def _distances(positions: Array, q: Array, weight: float) -> Array:
    moved = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    return np.asarray(np.hypot(moved, weight * _angles(q)))


def _lerp(a: Array, b: Array, t: Array) -> Array:
    return a + (b - a) * t[:, None]


def _slerp(a: Array, b: Array, t: Array) -> Array:
    """Spherical interpolation of unit quaternions; `t` outside 0..1 goes on along the same great circle."""
    cosine = np.sum(a * b, -1)
    b = np.where(cosine[:, None] < 0, -b, b)
    angle = np.arccos(np.clip(np.abs(cosine), 0, 1))
    sine = np.sin(angle)
    small = sine < 1e-7
    sine = np.where(small, 1.0, sine)
    weight_a = np.where(small, 1 - t, np.sin((1 - t) * angle) / sine)
    weight_b = np.where(small, t, np.sin(t * angle) / sine)
    mixed = weight_a[:, None] * a + weight_b[:, None] * b
    return np.asarray(mixed / np.linalg.norm(mixed, axis=-1, keepdims=True))


def _with_ends(keys: Array, mix: Callable[[Array, Array, Array], Array], is_loop: bool) -> Array:
    """Keys with one more on either side: the neighbour across the loop, or a straight continuation."""
    if is_loop:
        return np.concatenate([keys[-2:-1], keys, keys[1:2]])
    minus, plus = np.array([-1.0]), np.array([2.0])
    return np.concatenate([mix(keys[:1], keys[1:2], minus), keys, mix(keys[-2:-1], keys[-1:], plus)])


def _pyramid(p: list[Array], t: list[Array], u: Array, mix: Callable[[Array, Array, Array], Array]) -> Array:
    level1 = [mix(p[j], p[j + 1], (u - t[j]) / (t[j + 1] - t[j])) for j in range(3)]
    level2 = [mix(level1[j], level1[j + 1], (u - t[j]) / (t[j + 2] - t[j])) for j in range(2)]
    return mix(level2[0], level2[1], (u - t[1]) / (t[2] - t[1]))
