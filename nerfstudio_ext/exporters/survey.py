"""A quick look along a path at thumbnail size: does the method have opacity, and how far away are things."""

from __future__ import annotations

import numpy as np

from ..camera_paths import CameraPath, Similarity
from ..colormaps import depth_range
from ..errors import UserError
from ..renderer import CancelToken, Renderer
from .options import FrameOptions
from .pictures import PNG16_MAX, DepthScale

SURVEY_VIEWS, SURVEY_SIDE = 8, 64
DEPTH_MARGIN = 1.25
"""Room above the largest depth seen in the survey before 16 bits run out."""


def survey(
    renderer: Renderer,
    path: CameraPath,
    options: FrameOptions,
    frame: Similarity | None,
    cancel: CancelToken | None = None,
) -> DepthScale | None:
    """Choose one depth scale for the whole path; None when no depth is asked for.

    Raises:
        UserError: if opacity is asked of a method that has none.
    """
    if not {"depth", "alpha", "rgba"} & set(options.outputs):
        return None
    n_views = SURVEY_VIEWS if "depth" in options.outputs else 1
    picked = np.unique(np.linspace(0, len(path) - 1, n_views).round().astype(int)).tolist()
    depths = []
    for i in picked:
        camera = path.cameras[i]
        shrink = min(1.0, SURVEY_SIDE / max(camera.width, camera.height))
        small = camera.resize(max(1, round(camera.width * shrink)), max(1, round(camera.height * shrink)))
        seen = renderer.render(small, cancel=cancel)
        if seen.alpha is None and {"alpha", "rgba"} & set(options.outputs):
            wanted = "alpha" if "alpha" in options.outputs else "rgba"
            raise UserError("this method has no opacity", where=wanted, fix="Choose rgb, depth or normal")
        depths.append(seen.depth)
    if "depth" not in options.outputs:
        return None
    units = 1.0 if frame is None else 1 / frame.scale
    near, far = depth_range(depths)
    if options.depth_range is not None:
        near, far = (value / units for value in options.depth_range)
    largest = max(float(d[d.isfinite()].max()) if bool(d.isfinite().any()) else 0.0 for d in depths) * units
    return DepthScale(near, far, units, _png16_unit(largest))


def _png16_unit(largest: float) -> float:
    """A thousandth of a unit (millimetres of a metric capture), or the power of ten beside it that fits better."""
    unit = 1e-3
    while largest * DEPTH_MARGIN > PNG16_MAX * unit:
        unit *= 10
    while 0 < largest < 1000 * unit:
        unit /= 10
    return float(f"{unit:.0e}")
