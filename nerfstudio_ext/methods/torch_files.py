"""The one place that opens files written by `torch.save`: tensors only, whatever else is in them is refused."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError

MAX_BYTES = 1 << 30


def read_torch_file(path: Path) -> dict[str, Any]:
    """The dictionary of tensors, numbers and texts in a file that `torch.save` wrote. No code in the file is run.

    Raises:
        UserError: if the file is missing, too large, damaged, or holds anything but plain data.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"larger than {MAX_BYTES >> 20} MB; not one of the known checkpoints", where=path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError("no such checkpoint", where=path, fix="Check the path") from None
    except IsADirectoryError:
        raise UserError("a folder; expected the checkpoint file", where=path) from None
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", where=path) from None
    # Torch's restricted reader raises these for damage and for everything it refuses to build.
    except (
        RuntimeError,
        ValueError,
        EOFError,
        KeyError,
        IndexError,
        AttributeError,
        TypeError,
        UnicodeDecodeError,
        zipfile.BadZipFile,
        torch.serialization.pickle.UnpicklingError,
    ):
        raise UserError(
            "damaged, or it holds more than tensors", where=path, fix="Get the original file again; nothing was run"
        ) from None  # fmt: skip
    if not isinstance(found, dict):
        raise UserError(f"holds a {type(found).__name__}, expected named tensors", where=path)
    return found
