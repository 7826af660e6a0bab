"""NumPy arrays (.npy) from strangers: what the header claims is checked against the bytes before memory is taken."""

from __future__ import annotations

import io
import math
import tokenize
import warnings
from pathlib import Path

import numpy as np

from .errors import UserError

_HEADER_ERRORS = (
    ValueError, TypeError, KeyError, SyntaxError, EOFError, OverflowError, RecursionError, MemoryError,
    tokenize.TokenError,
)  # fmt: skip
"""What NumPy raises on damaged headers, which are Python literals; each was met with mutated files."""


def read_array(path: Path, *, max_bytes: int, noun: str = "array of numbers", fix: str = "") -> np.ndarray:
    """Read a whole .npy file of numbers.

    Args:
        path: The file.
        max_bytes: A larger one is refused before it is read.
        noun: What it should be, for messages.
        fix: What to do about a file that cannot be used.
    Raises:
        UserError: if the file is missing, too large, or not what its header says.
    """
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise UserError(f"{size / 2**20:.0f} MB are too many for an {noun}", where=path, fix=fix)
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"no such {noun}", where=path, fix=fix) from None
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", where=path, fix=fix) from None
    return parse_array(data, where=path, fix=fix)


def parse_array(data: bytes, *, where: object, fix: str = "") -> np.ndarray:
    """The array in the content of a .npy file; raises as `read_array`. Archives and arrays of objects are refused."""
    buffer = io.BytesIO(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers that Python 2 wrote: of no use to whoever reads a capture
            version = np.lib.format.read_magic(buffer)
            read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            if version not in read_header:
                raise ValueError(f"format {version[0]}.{version[1]}")
            shape, is_column_first, dtype = read_header[version](buffer)
    except _HEADER_ERRORS as error:
        reason = str(error).splitlines()[0] if str(error) else "its header is damaged"
        raise UserError(f"not a NumPy array ({reason})", where=where, fix=fix) from None
    if dtype.kind not in "fiub":
        raise UserError(f"an array of {dtype}, not of numbers", where=where, fix=fix)
    if min(shape, default=0) < 0:
        raise UserError(f"an array of impossible shape {shape}", where=where, fix=fix)
    n_bytes, left = math.prod(shape) * dtype.itemsize, len(data) - buffer.tell()
    if n_bytes > left:
        raise UserError(f"cut short: its header promises {n_bytes} bytes, {left} are there", where=where, fix=fix)
    flat = np.frombuffer(data, dtype, count=math.prod(shape), offset=buffer.tell())
    return flat.reshape(tuple(map(int, shape)), order="F" if is_column_first else "C").copy()
