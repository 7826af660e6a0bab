"""The one place that opens files written by `torch.save`: tensors only, whatever else is in them is refused.

Such a file is a zip archive around a pickle. The archive is looked at before torch is: what it unpacks to is bounded by
its own size, and nothing in it is ever written to a path.
"""

from __future__ import annotations

import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..floors import require_floor
from ..tensor_files import read_tensors

MAX_BYTES = 1 << 30
MAX_MEMBERS = 20_000
"""One per tensor; the largest of the known checkpoints has about 2,000."""
_CONVERT = (
    "Convert it to .safetensors with the program that wrote it, on a machine that holds nothing of value "
    "(docs/foreign_checkpoints.md)"
)
_AGAIN = "Get the original file again"


def read_torch_file(path: Path) -> dict[str, Any]:
    """The dictionary of tensors, numbers and texts in a file that `torch.save` wrote, or the tensors of a .safetensors.

    No code in the file is run.

    Raises:
        UserError: if the file is missing, too large, damaged, or holds anything but plain data.
    """
    if path.suffix.lower() == ".safetensors":
        return dict(read_tensors(path, max_bytes=MAX_BYTES, noun="checkpoint")[0])
    require_floor("torch")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UserError(
                f"larger than {MAX_BYTES >> 20} MB; not one of the known checkpoints", where=path, fix="Check the path"
            )
        _refuse_archive(path, size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, to programmers, about old kinds of storage
            found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError("no such checkpoint", where=path, fix="Check the path") from None
    except IsADirectoryError:
        raise UserError("a folder; expected the checkpoint file", where=path, fix="Name the file in it") from None
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", where=path, fix=_AGAIN) from None
    except torch.serialization.pickle.UnpicklingError:
        # The archive is whole, so what torch refuses to build is not damage.
        what = "cannot be read safely: it holds more than tensors, and nothing of it was run"
        raise UserError(what, where=path, fix=_CONVERT) from None
    # Torch's restricted reader raises these for damage.
    except (
        RuntimeError,
        ValueError,
        EOFError,
        KeyError,
        IndexError,
        AttributeError,
        TypeError,
        MemoryError,
        RecursionError,
        UnicodeDecodeError,
        struct.error,
    ):
        raise UserError("damaged: its parts do not fit together", where=path, fix=_AGAIN) from None
    if not isinstance(found, dict):
        raise UserError(f"holds a {type(found).__name__}, expected named tensors", where=path, fix="Check the path")
    return found


def _refuse_archive(path: Path, size: int) -> None:
    """Refuse what is not a plain archive: no member packed, none outside, all together no larger than the file.

    Files of torch before 1.6 are bare pickles, or tar archives, whose sizes are known only while they are unpacked.
    """
    with path.open("rb") as file:
        start = file.read(2)
    if start != b"PK":
        what = f"not a checkpoint of torch 1.6 or later (it has {size / 1e6:.1f} MB)"
        raise UserError(what, where=path, fix=f"{_AGAIN}. {_CONVERT}")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, UnicodeDecodeError):
        raise UserError(f"not a complete checkpoint (got {size / 1e6:.1f} MB)", where=path, fix=_AGAIN) from None
    if len(members) > MAX_MEMBERS:
        raise UserError(f"{len(members)} members; at most {MAX_MEMBERS} are read", where=path, fix=_AGAIN)
    names = set()
    for info in members:
        name = info.filename
        is_plain = info.compress_type == zipfile.ZIP_STORED and info.file_size == info.compress_size
        if not is_plain or info.flag_bits & 1:
            unpacked = sum(info.file_size for info in members) / 1e6
            what = f"its members are packed: {size / 1e6:.1f} MB would become {unpacked:.1f} MB"
            raise UserError(what, where=path, fix=_AGAIN)
        if name.startswith(("/", "\\")) or ".." in Path(name).parts or name in names:
            raise UserError(f"its member '{name[:80]}' has no place in a checkpoint", where=path, fix=_AGAIN)
        names.add(name)
    if sum(info.file_size for info in members) > size:
        raise UserError("its members lie on top of each other", where=path, fix=_AGAIN)
