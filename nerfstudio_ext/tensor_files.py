"""Files of named tensors (safetensors) from strangers: everything the header claims is checked before it is believed.

The format holds no code, and the library checks that tensors neither overlap nor leave holes. It takes any number of
them, though (a million, which hold nothing, cost half a minute), and the last of two entries with one name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Protocol

from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from torch import Tensor

from .errors import UserError
from .floors import require_floor
from .strict_json import JsonObject, parse_json

MAX_HEADER_BYTES = 4 << 20
"""Our headers stay below 100 kB; a far larger one is not ours and would be slow to parse."""
MAX_TENSORS = 10_000
"""The largest model that is read here has about 700; each costs some 20 microseconds."""


AGAIN = "Get the file again from where it was made"


class Source(Protocol):
    """A file on disk or inside the package."""

    def open(self, mode: str) -> IO[bytes]:
        """As `Path.open`."""


def read_tensors(
    source: Source, *, max_bytes: int, noun: str = "tensor file", fix: str = AGAIN
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a whole file of tensors.

    Args:
        source: The file.
        max_bytes: A larger one is refused before it is read.
        noun: What it should be, for messages.
        fix: What to do about a file that cannot be used.
    Returns:
        The tensors, and the notes beside them.
    Raises:
        UserError: if the file is missing, too large, or not what its header says.
    """
    missing = "Check the path" if fix == AGAIN else fix
    try:
        with source.open("rb") as file:
            start = file.read(8)
            refuse_header(start, where=source, fix=fix)
            data = start + file.read(max_bytes + 1 - len(start))
    except FileNotFoundError:
        raise UserError(f"no such {noun}", where=source, fix=missing) from None
    except IsADirectoryError:
        raise UserError("cannot be read: it is a folder", where=source, fix=missing) from None
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", where=source, fix=fix) from None
    if len(data) > max_bytes:
        raise UserError(f"larger than {max_bytes >> 20} MB: no {noun}", where=source, fix=fix)
    return parse_tensors(data, where=source, fix=fix)


def parse_tensors(data: bytes, *, where: object, fix: str = AGAIN) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the notes in the bytes of a file.

    Raises:
        UserError: if they are not what the header says, or there are too many.
    """
    require_floor("torch")
    header = header_of(data, where=where, fix=fix)
    notes = header.pop("__metadata__", None) or {}
    if len(header) > MAX_TENSORS:
        raise UserError(f"{len(header)} tensors; at most {MAX_TENSORS} are read", where=where, fix=fix)
    try:
        tensors = parse_safetensors(data)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        reason = str(error).removeprefix("Error while deserializing: ")
        raise UserError(f"not a tensor file, or a damaged one ({reason})", where=where, fix=fix) from None
    return tensors, {str(name): str(value) for name, value in notes.items()}


def header_of(data: bytes, *, where: object, fix: str = AGAIN) -> JsonObject:
    """The JSON header, read strictly: each name once.

    Raises:
        UserError: if there is none, or it is too long or no JSON.
    """
    refuse_header(data[:8], where=where, fix=fix)
    end = 8 + int.from_bytes(data[:8], "little")
    try:
        header = parse_json(data[8:end].decode("utf-8"), where="")
    except UnicodeDecodeError:
        raise UserError("not a tensor file: its header is no text", where=where, fix=fix) from None
    except UserError as error:
        raise UserError(f"not a tensor file: its header is wrong ({error.what})", where=where, fix=fix) from None
    if not isinstance(header.get("__metadata__") or {}, Mapping):
        raise UserError("not a tensor file: its notes are none", where=where, fix=fix)
    return header


def refuse_header(start: bytes, *, where: object, fix: str = AGAIN) -> None:
    """Refuse a file by its first eight bytes, before anything is read because of them.

    Raises:
        UserError: if there are fewer, or they announce a header that is too long to be parsed.
    """
    if len(start) < 8:
        raise UserError(f"not a tensor file: it has {len(start)} bytes", where=where, fix=fix)
    length = int.from_bytes(start, "little")
    if length > MAX_HEADER_BYTES:
        raise UserError(f"not a tensor file: its header would have {length} bytes", where=where, fix=fix)
