"""The source pictures of a run whose method looks at photos when it renders: one file beside the checkpoints."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save as pack_safetensors

from ..errors import UserError
from ..methods.protocol import Method, NeedsPhotos
from ..scenes.model import Scene
from ..tensor_files import read_tensors

PHOTOS = "photos.safetensors"
MAX_BYTES = 1 << 34
_FIX = "`nsx train --resume RUN` writes it again from the capture"


def give_photos(method: Method, scene: Scene, run: Path) -> None:
    """Let a method that needs photos take them from the capture, and keep them in the run folder.

    Args:
        method: Any method; those that need no photos are left alone.
        scene: The capture.
        run: The run folder, open for writing.
    Raises:
        UserError: if the photos do not suit the method, or cannot be written.
    """
    if isinstance(method, NeedsPhotos):
        method.take_photos(scene)
        keep_photos(method, run)


def keep_photos(method: Method, run: Path) -> None:
    """Write the photos that a method looks at, where it is one that does, into the run folder.

    Raises:
        UserError: if they cannot be written.
    """
    if not isinstance(method, NeedsPhotos):
        return
    path = run / PHOTOS
    temporary = run / f".{PHOTOS}.tmp"
    try:
        temporary.write_bytes(pack_safetensors(dict(method.photo_tensors())))
        temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"the source pictures cannot be kept: {error.strerror}",
            where=path,
            fix="Free some space, or choose another --output-dir",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def read_photos(method: Method, run: Path) -> None:
    """Give a method that needs photos those that its run has kept.

    Raises:
        UserError: if the file is missing or damaged, or belongs to another capture.
    """
    if not isinstance(method, NeedsPhotos):
        return
    path = run / PHOTOS
    tensors, _ = read_tensors(path, max_bytes=MAX_BYTES, noun="file with the run's source pictures", fix=_FIX)
    try:
        method.load_photo_tensors(tensors)
    except UserError as error:
        raise UserError(str(error.what), where=path, fix=_FIX) from None
