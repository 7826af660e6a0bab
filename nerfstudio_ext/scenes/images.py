"""The one picture decoder, and the pixels of a whole capture in one uint8 array."""

from __future__ import annotations

import functools
import importlib
import io
import logging
import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int32, Int64, UInt8
from PIL import Image, ImageCms, UnidentifiedImageError
from torch import Tensor

from ..errors import UserError
from ..floors import require_floor
from .picture_memory import fetch_rows

log = logging.getLogger(__name__)

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM")
"""Decoders that are tried; Pillow has dozens more, and its security faults have been in those."""
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".ppm")
HEIC_SUFFIXES = (".heic", ".heif", ".hif")
RAW_SUFFIXES = (".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2")
MAX_PIXELS = 100_000_000
"""Checked from the header, before memory for the pixels is taken."""

_DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, MemoryError,
    struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow's decoders raise on damaged files; each was met with mutated pictures or stands in its sources."""
_TRANSPOSED = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""
_REDUCE = "Reduce the picture, or raise the limit (`nsx process --max-pixels`)"


class DamagedImage(UserError):
    """A file that is no picture, or a picture that cannot be decoded to its end."""


@dataclass(frozen=True)
class ImageInfo:
    """What the header of a picture says.

    Attributes:
        width: Width in pixels once upright.
        height: Height in pixels once upright.
        orientation: EXIF orientation 1..8; 1 is upright as stored.
        has_alpha: Whether the picture carries opacity.
        n_frames: Pictures in the file; only the first is read.
        format: Decoder name, such as "JPEG".
    """

    width: int
    height: int
    orientation: int
    has_alpha: bool
    n_frames: int
    format: str

    @property
    def stored_size(self) -> tuple[int, int]:
        """(width, height) as stored, before the EXIF orientation is applied."""
        return (self.height, self.width) if self.orientation in _TRANSPOSED else (self.width, self.height)


def probe_image(path: Path, *, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """Read the header of a picture.

    Raises:
        UserError: if the file needs a decoder that is not installed, or is larger than `max_pixels`.
        DamagedImage: if it is no picture or its header is damaged.
    """
    try:
        with _open(path, max_pixels) as picture:
            return _info(picture)
    except _DECODER_ERRORS as error:
        raise _damaged(path, error) from None


def read_image(
    path: Path, *, size: tuple[int, int] | None = None, upright: bool = True, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "H W C"]:
    """Decode one picture to 8-bit RGB, or RGBA with straight alpha when it carries opacity.

    16-bit values are divided by 257, CMYK, palette, grey and 1-bit pictures are converted, wide-gamut colour profiles
    are brought to sRGB. Of an animation the first frame is read.

    Args:
        path: The file; its content decides, not its ending.
        size: (width, height) to reduce to by area average, in upright pixels; None keeps the size.
        upright: Apply the EXIF orientation.
        max_pixels: Pictures with more are refused from the header.
    Raises:
        UserError, DamagedImage: as `probe_image`; DamagedImage also when the pixels are cut short.
    """
    try:
        with _open(path, max_pixels) as picture:
            info = _info(picture)
            picture.load()
            flat = _to_rgb(picture, info.has_alpha, path)
            is_turned = upright and info.orientation in _TRANSPOSED
            if size is not None:
                stored = (size[1], size[0]) if is_turned else size
                if stored != flat.size:
                    flat = flat.resize(stored, Image.Resampling.BOX)
            flat = _to_srgb(flat, picture.info.get("icc_profile"))
            pixels = np.asarray(flat)
    except _DECODER_ERRORS as error:
        raise _damaged(path, error) from None
    return np.ascontiguousarray(turn_upright(pixels, info.orientation) if upright else pixels)


def turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation 1..8 to an array [H,W,...]; returns a view."""
    if orientation in _TRANSPOSED:
        pixels = pixels.swapaxes(0, 1)
    # After the transposition of 5..8: 6 = mirror columns, 8 = mirror rows, 7 = both.
    flips = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}.get(orientation, (1, 1))
    return pixels[:: flips[0], :: flips[1]]


def read_mask(path: Path, size: tuple[int, int], *, is_ignore: bool = False) -> Bool[np.ndarray, "H W"]:
    """Decode a mask file to the pixels that may be used.

    Args:
        path: The file; its colours count, its opacity does not.
        size: (width, height) of the result.
        is_ignore: False: brighter than half = use. True: anything but black = ignore (instant-ngp's sense); a pixel
            of a reduced mask that touches one to be ignored is ignored.
    """
    red, green, blue = np.moveaxis(read_image(path)[..., :3], -1, 0)
    # Channel by channel, in bytes: the shorter ways take seconds for 100 MP.
    brightest = np.maximum(np.maximum(red, green), blue)
    marked = (brightest > (0 if is_ignore else 127)).view(np.uint8) * np.uint8(255)
    if size != (marked.shape[1], marked.shape[0]):
        marked = np.asarray(Image.fromarray(marked).resize(size, Image.Resampling.BOX))
    return marked == 0 if is_ignore else marked > 127


class ImageStore:
    """The pixels of V pictures in one flat uint8 array, with lists of usable pixels where masks exist.

    Attributes:
        n_channels: 3, or 4 when any picture has opacity (straight alpha).
        sizes: [V,2] int64, (width, height).
        folder: Where files go that hold what memory is too small for; None: the system's folder for such.
    """

    def __init__(
        self,
        flat: np.ndarray,
        offsets: Sequence[int],
        sizes: Int64[Tensor, "V 2"],
        valid: Sequence[np.ndarray | None] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.folder = folder
        self.n_channels = int(flat.shape[-1])
        self.sizes = sizes
        self._flat = flat
        self._table = torch.from_numpy(flat)
        self._offsets = torch.tensor(list(offsets), dtype=torch.int64)
        self._widths = sizes[:, 0].contiguous()
        self._valid = list(valid) if valid is not None else [None] * len(sizes)

    @property
    def is_mapped(self) -> bool:
        """Whether the pixels lie in a file rather than in memory."""
        return isinstance(self._flat, np.memmap)

    @classmethod
    def from_arrays(cls, arrays: Sequence[np.ndarray], valid: Sequence[np.ndarray | None] | None = None) -> ImageStore:
        """A store over pictures already decoded, uint8 [H,W,3] or [H,W,4]; they are copied."""
        n_channels = max(a.shape[-1] for a in arrays)
        full = [a if a.shape[-1] == n_channels else np.dstack([a, np.full(a.shape[:2], 255, np.uint8)]) for a in arrays]
        sizes = torch.tensor([[a.shape[1], a.shape[0]] for a in full], dtype=torch.int64)
        offsets = np.concatenate([[0], np.cumsum([a.shape[0] * a.shape[1] for a in full])[:-1]])
        return cls(np.concatenate([a.reshape(-1, n_channels) for a in full]), offsets.tolist(), sizes, valid)

    def __len__(self) -> int:
        return len(self.sizes)

    def pixels(self, i: int) -> UInt8[np.ndarray, "H W C"]:
        """Picture `i` as a view; do not write to it."""
        width, height = self.sizes[i].tolist()
        start = int(self._offsets[i])
        return self._flat[start : start + width * height].reshape(height, width, self.n_channels)

    def gather(
        self, cam_ids: Int64[Tensor, " R"], u: Int64[Tensor, " R"], v: Int64[Tensor, " R"]
    ) -> UInt8[Tensor, "R C"]:
        """Pixels (column u, row v) of several pictures."""
        return self._rows(self._offsets[cam_ids] + v * self._widths[cam_ids] + u)

    def gather_flat(self, cam_ids: Int64[Tensor, " R"], flat_indices: Int64[Tensor, " R"]) -> UInt8[Tensor, "R C"]:
        """Pixels by position `v * width + u` within their picture."""
        return self._rows(self._offsets.index_select(0, cam_ids) + flat_indices)

    def _rows(self, rows: Int64[Tensor, " R"]) -> UInt8[Tensor, "R C"]:
        if self.is_mapped:
            fetch_rows(self._flat, rows.numpy())
        return self._table.index_select(0, rows)

    def valid_pixels(self, i: int) -> Int32[np.ndarray, " n"] | None:
        """Positions `v * width + u` of the usable pixels of picture `i`, ascending; None means all."""
        return self._valid[i]


@functools.cache
def _formats() -> tuple[str, ...]:
    """The decoders in use: the built-in list, and HEIF where its optional package is installed."""
    require_floor("PIL")
    for name in ("Jpeg", "Png", "Tiff", "WebP", "Bmp", "Gif", "Ppm"):
        # Pillow registers decoders lazily, and fails on a list that names one it has not met yet.
        importlib.import_module(f"PIL.{name}ImagePlugin")
    # Pillow warns on standard error about what it then raises or reads all the same, and names no file; our errors do.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        import pillow_heif
    except ImportError:
        return FORMATS
    pillow_heif.register_heif_opener()
    return (*FORMATS, "HEIF")


def _open(path: Path, max_pixels: int) -> Image.Image:
    if not path.is_file():
        kind, what = (DamagedImage, "not a file") if path.exists() else (UserError, "no such picture")
        raise kind(what, where=path, fix="Restore it")
    try:
        picture = Image.open(path, formats=_formats())
    except PermissionError:
        raise UserError(
            f"no permission to read it (mode {path.stat().st_mode & 0o777:03o})", where=path, fix="Change its mode"
        ) from None
    except Image.DecompressionBombError:
        raise UserError(f"more than {max_pixels / 1e6:.0f} MP", where=path, fix=_REDUCE) from None
    n_pixels = picture.width * picture.height
    if n_pixels > max_pixels:
        picture.close()
        raise UserError(
            f"{n_pixels / 1e6:.0f} MP is over the limit of {max_pixels / 1e6:.0f} MP", where=path,
            fix=_REDUCE,
        )  # fmt: skip
    return picture


def _info(picture: Image.Image) -> ImageInfo:
    try:
        orientation = picture.getexif().get(0x0112, 1)
    except _DECODER_ERRORS:  # malformed EXIF is common and says nothing about the pixels
        orientation = 1
    orientation = orientation if orientation in range(1, 9) else 1
    width, height = picture.size
    if orientation in _TRANSPOSED:
        width, height = height, width
    has_alpha = picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info
    return ImageInfo(width, height, orientation, has_alpha, getattr(picture, "n_frames", 1), picture.format or "")


def _to_rgb(picture: Image.Image, has_alpha: bool, path: Path) -> Image.Image:
    if picture.mode.startswith("I;16"):
        # `convert` would clip 16-bit grey at 255 and turn nearly every photo white.
        values = np.asarray(picture).astype(np.uint32)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGBA" if has_alpha else "RGB")
    if picture.mode in ("I", "F"):
        raise DamagedImage(
            "32 bits per value, whose range is not stated", where=path, fix="Export it with 8 or 16 bits per value"
        )
    return picture.convert("RGBA" if has_alpha else "RGB")


def _to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    if not profile:
        return picture
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != "RGB" or "srgb" in ImageCms.getProfileDescription(source).lower():
            return picture
        converted = ImageCms.profileToProfile(picture.convert("RGB"), source, ImageCms.createProfile("sRGB"))
    except (ImageCms.PyCMSError, OSError):  # a broken profile is ignored, as browsers do
        return picture
    if converted is None or picture.mode != "RGBA":
        return converted or picture
    converted.putalpha(picture.getchannel("A"))
    return converted


def _damaged(path: Path, error: Exception) -> DamagedImage:
    log.debug("%s: %r", path, error)
    if isinstance(error, UnidentifiedImageError):
        suffix = path.suffix.lower()
        if suffix in HEIC_SUFFIXES:
            return DamagedImage(
                "HEIC needs the 'heic' extra", where=path,
                fix="Install it (pip install 'nerfstudio-ext[heic]'), or export the photo as JPEG",
            )  # fmt: skip
        if suffix in RAW_SUFFIXES:
            return DamagedImage("raw camera files are not read", where=path, fix="Export it as JPEG or 16-bit TIFF")
        if path.stat().st_size == 0:
            return DamagedImage("the file is empty", where=path, fix="Copy it again")
        return DamagedImage("not a picture", where=path, fix="Remove it, or save it as JPEG or PNG")
    what = str(error).lower()
    if "truncated" in what or "not enough" in what or "broken" in what:
        return DamagedImage("the file is cut short", where=path, fix="Copy it again")
    return DamagedImage(f"cannot be decoded ({error})", where=path, fix="Copy it again, or remove it")
