"""The stage `prepare`: a photo becomes a cut-out object with a camera, and a depth where there is one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ...errors import UserError
from ...progress import Progress, SilentProgress
from ...scenes.prepared import PreparedNotes, PreparedPhoto, write_prepared
from .depth_files import DepthMeaning, file_depth, looks_inverted
from .framing import GUESSED_ELEVATION, camera_distance, cut_out, field_of_view, frame_around, square_depth, whole_frame
from .hub_pictures import BOX_MASK_MODEL, DEPTH_MODEL, WORD_MASK_MODEL, HubOptions, Seen, see_depth, see_mask
from .masks import check_mask, file_mask, plain_background
from .photo import Photo, read_photo
from .pictures import PICTURE, preparation_picture, save_picture

AUTO, NONE = "auto", "none"


@dataclass(frozen=True)
class PrepareSettings:
    """How a photo is prepared."""

    mask: Path | None = None
    """Mask of the object: bright is the object."""
    mask_model: str = AUTO
    """Hub id or folder of a segmentation model (CLIPSeg, SAM); `auto` asks one only where transparency and a plain
    background say nothing; `none` never."""
    depth: Path | None = None
    """Depth of the photo: .npy, or a grey picture of 8 or 16 bits."""
    depth_means: DepthMeaning = "distance"
    """What large numbers in the depth file are: far away (distance) or near (nearness)."""
    depth_model: str = AUTO
    """Hub id or folder of a monocular depth model; `auto` uses the default one if it can be had; `none` no depth."""
    fov: float | None = None
    """Field of view of the cut-out picture, degrees (default: from EXIF, else 40)."""
    elevation: float | None = None
    """Height of the camera over the object's horizon, degrees (default: guessed, 15)."""
    prepared_side: int = 256
    """Side of the cut-out picture, pixels."""
    may_be_cut: bool = False
    """Accept an object that the frame cuts off."""
    keep_frame: bool = False
    """Leave the object where and as large as it is in the photo; for photos that are framed already."""

    def __post_init__(self) -> None:
        if self.fov is not None and not 1 <= self.fov <= 120:
            raise UserError(f"{self.fov:g} is out of range", where="--fov", fix="Give 1 to 120 degrees")
        if self.elevation is not None and not -89 <= self.elevation <= 89:
            raise UserError(f"{self.elevation:g} is out of range", where="--elevation", fix="Give -89 to 89 degrees")
        if not 64 <= self.prepared_side <= 1024:
            fix = "Give 64 to 1024 pixels"
            raise UserError(f"{self.prepared_side} is out of range", where="--prepared-side", fix=fix)


@dataclass(frozen=True)
class Words:
    """What the user says about the photo."""

    text: str = ""
    negative_text: str = ""
    class_name: str = ""


def prepare_photo(
    path: Path, folder: Path, settings: PrepareSettings, words: Words, hub: HubOptions,
    progress: Progress | None = None,
) -> PreparedPhoto:  # fmt: skip
    """Prepare a photo and write the result, with a picture of it, into a folder.

    Args:
        path: The photo.
        folder: Where the result goes.
        settings: How.
        words: What it shows.
        hub: How models are got.
        progress: Told about every step.
    Raises:
        UserError: if the photo, its mask or its depth cannot be used, or a model that was asked for cannot be had.
    """
    progress = progress or SilentProgress()
    progress.stage("preparing the photo", 4)
    photo = read_photo(path)
    progress.advance(1, "mask")
    mask, mask_line = _mask(photo, settings, words, hub)
    cut = check_mask(mask, settings.mask or path, may_be_cut=settings.may_be_cut)
    progress.advance(2, "depth")
    depth, depth_line = _depth(photo, mask, settings, hub, progress)
    progress.advance(3, "framing")
    frame = whole_frame(photo.size) if settings.keep_frame else frame_around(mask)
    rgba = cut_out(photo.rgb, mask, frame, settings.prepared_side)
    alpha = rgba[..., 3].astype(np.float32) / 255
    square = None if depth is None else square_depth(depth, frame, alpha)
    fov, fov_line = field_of_view(photo.focal_px, frame, settings.fov)
    elevation = GUESSED_ELEVATION if settings.elevation is None else settings.elevation
    source = "guessed" if settings.elevation is None else "given"
    lines = [mask_line, depth_line, fov_line, f"elevation: {elevation:g} degrees, {source}"]
    if len(cut) == 4:
        lines.append("the object meets all four sides: taken as cut out along its bounds")
    elif cut:
        lines.append(f"the object is cut off by the frame ({', '.join(cut)})")
    notes = PreparedNotes(
        fov, elevation, camera_distance(fov), words.text, words.negative_text, words.class_name, path.name, tuple(lines)
    )
    prepared = PreparedPhoto(rgba, square, notes)
    write_prepared(prepared, folder)
    save_picture(preparation_picture(photo, mask, prepared), folder / PICTURE)
    progress.advance(4)
    return prepared


def _mask(photo: Photo, settings: PrepareSettings, words: Words, hub: HubOptions) -> tuple[np.ndarray, str]:
    """The mask and a line that says where it comes from: the most certain source that there is."""
    if settings.mask is not None:
        return file_mask(settings.mask, photo), f"mask: {settings.mask.name}"
    if photo.alpha is not None:
        return photo.alpha, "mask: the photo's transparency"
    if settings.mask_model in (AUTO, NONE):
        plain = plain_background(photo.rgb)
        if plain is not None:
            return plain, "mask: all that differs from the plain background"
    if settings.mask_model == NONE:
        raise UserError(
            "the photo has neither transparency nor a plain background, so its object cannot be told", where=photo.path,
            fix="Give --mask FILE (bright is the object), or allow a model with --mask-model auto",
        )  # fmt: skip
    name = settings.mask_model
    if name == AUTO:
        name = WORD_MASK_MODEL if words.text else BOX_MASK_MODEL
    try:
        seen = see_mask(photo.rgb, name, words.text, hub)
    except UserError as error:
        if settings.mask_model != AUTO:
            raise
        raise UserError(
            "the photo has neither transparency nor a plain background, and no model can look for its object "
            f"({error.line})",
            where=photo.path,
            fix="Give --mask FILE (bright is the object), or a cut-out PNG",
        ) from None
    return seen.values, f"{seen.note.line()}"


def _depth(
    photo: Photo, mask: Float[np.ndarray, "H W"], settings: PrepareSettings, hub: HubOptions, progress: Progress
) -> tuple[Float[np.ndarray, "H W"] | None, str]:
    """Distances at the photo's size, or None, and a line that says where they come from."""
    if settings.depth is not None:
        depth = file_depth(settings.depth, photo, settings.depth_means)
        _warn_if_inverted(depth, mask, "--depth-means " + _other(settings.depth_means), progress)
        return depth, f"depth: {settings.depth.name}, {settings.depth_means}"
    if settings.depth_model == NONE:
        return None, "depth: none"
    name = DEPTH_MODEL if settings.depth_model == AUTO else settings.depth_model
    seen = _or_nothing(lambda: see_depth(_before_grey(photo), name, hub), settings.depth_model == AUTO, progress)
    if seen is None:
        return None, "depth: none, no model could be had"
    _warn_if_inverted(seen.values, mask, "--depth FILE", progress)
    kind = "metric" if seen.is_metric else "relative, from nearness"
    return seen.values, f"{seen.note.line()} ({kind})"


def _or_nothing(see: Callable[[], Seen], may_fail: bool, progress: Progress) -> Seen | None:
    try:
        return see()
    except UserError as error:
        if not may_fail:
            raise
        progress.warn(f"no depth, so the shape seen in the photo is less certain: {error.line}")
        return None


def _before_grey(photo: Photo) -> np.ndarray:
    """The photo with its transparent parts grey: what lies under transparency is anything."""
    if photo.alpha is None:
        return photo.rgb
    alpha = photo.alpha[..., None]
    return (photo.rgb * alpha + 128 * (1 - alpha)).round().astype(np.uint8)


def _warn_if_inverted(depth: np.ndarray, mask: np.ndarray, fix: str, progress: Progress) -> None:
    if looks_inverted(depth, mask > 0.5):
        progress.warn(f"by its depth the object lies behind what surrounds it; if that is wrong use {fix}")


def _other(meaning: DepthMeaning) -> DepthMeaning:
    return "nearness" if meaning == "distance" else "distance"
