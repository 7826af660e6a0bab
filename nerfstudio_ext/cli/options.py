"""Options that several commands share, and small readers of their values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..errors import UserError


@dataclass(frozen=True)
class CommonOptions:
    """What every command takes."""

    json: Annotated[str | None, tyro.conf.arg(metavar="PATH|-")] = None
    """Write the result as one JSON object to this file, or to standard output with `-`; text then goes to stderr."""

    debug: bool = False
    """Show the full traceback of any error."""


def one_of(command: str, what: str, *candidates: Path | None) -> Path:
    """The one path given among alternative spellings.

    Raises:
        UserError: if none or more than one was given.
    """
    given = [path for path in candidates if path is not None]
    if not given:
        raise UserError(f"no {what} was given", where=f"nsx {command}", fix=f"`nsx {command} --help` shows the usage")
    if len(given) > 1:
        raise UserError(
            f"{what} was given twice ('{given[0]}' and '{given[1]}')", where=f"nsx {command}", fix="Give it once"
        )
    return given[0]


def image_size(text: str | None) -> tuple[int, int] | None:
    """Width and height from `WxH`.

    Raises:
        UserError: if the text is not two positive whole numbers.
    """
    if text is None:
        return None
    width, separator, height = text.lower().partition("x")
    numbers = [int(side) for side in (width, height) if side.isascii() and side.isdigit()]
    if not separator or len(numbers) != 2 or 0 in numbers:
        raise UserError(f"'{text}' is not an image size", where="--size", fix="Write it as WxH, such as 1280x720")
    return numbers[0], numbers[1]


@dataclass(frozen=True)
class DeviceOptions:
    """Where to compute."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes a CUDA device when there is one and the method runs on it."""


@dataclass(frozen=True)
class PictureOptions:
    """How much memory photos may take."""

    image_memory: Annotated[float | None, tyro.conf.arg(metavar="GB")] = None
    """Gigabytes of memory that the photos' pixels may take; where they are more, they go to a file on the disk that is
    mapped into memory (default: 40 % of the free memory)."""

    @property
    def memory_budget(self) -> int | None:
        """The same in bytes; None where nothing was said.

        Raises:
            UserError: if it is negative or no number.
        """
        if self.image_memory is None:
            return None
        if not 0 <= self.image_memory < 1e6:
            what = f"{self.image_memory:g} GB make no sense"
            raise UserError(what, where="--image-memory", fix="Give gigabytes, such as 4; 0 keeps all on the disk")
        return int(self.image_memory * 1e9)


@dataclass(frozen=True)
class ViewerOptions:
    """Where the viewer listens."""

    port: int = 7007
    """Port of the viewer; when it is taken, the next free one."""

    host: str = "127.0.0.1"
    """Address to listen on. 0.0.0.0 lets other machines in: whoever has the printed link, and nothing is encrypted."""

    allow_host: tuple[str, ...] = ()
    """Further names under which the page may be opened, behind a proxy of your own."""
