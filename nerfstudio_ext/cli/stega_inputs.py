"""What several actions of `nsx stega` are given: a message, and a run with or without its photos."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError

if TYPE_CHECKING:
    from ..progress import Progress
    from ..scenes.model import Scene
    from ..stages.stega.messages import Message
    from ..training.runs import OpenedRun


def messages_of(payload_ids: Sequence[str], text: str | None, bytes_hex: str | None) -> list[Message]:
    """The message that was given, or the identities of several owners.

    Raises:
        UserError: if there is none, there are several of different kinds, or one is not valid.
    """
    from ..stages.stega.messages import Message

    n_kinds = bool(payload_ids) + (text is not None) + (bytes_hex is not None)
    if n_kinds != 1:
        what = "no message was given" if not n_kinds else "more than one message was given"
        raise UserError(what, where="nsx stega", fix="Give one of --payload-id, --text and --bytes-hex")
    if payload_ids:
        return [Message.from_id(digits) for digits in payload_ids]
    if text is not None:
        return [Message.from_text(text)]
    try:
        return [Message("bytes", bytes.fromhex(bytes_hex or ""))]
    except ValueError:
        raise UserError(
            f"'{bytes_hex}' is not hexadecimal", where="--bytes-hex", fix="Write two digits of 0-9 and a-f per byte"
        ) from None


def looked_at(opened: OpenedRun) -> OpenedRun:
    """The run with cameras all around it where it was lifted from one photo: what is not looked at is not marked."""
    from ..scenes.viewpoints import seen_all_around

    return dataclasses.replace(opened, meta=seen_all_around(opened.meta))


def photos_of(opened: OpenedRun, progress: Progress, capture: Path | None, consequence: str) -> Scene | None:
    """The capture with its photos; None, with a warning, where it is gone.

    Args:
        opened: The run.
        progress: Gets the warning.
        capture: Where it is now; must be right when given.
        consequence: What the user has to do without, as the warning says it.
    """
    from ..scenes.viewpoints import is_lifted
    from .evaluate import scene_of_run

    if is_lifted(opened.meta):
        return None  # one photo cannot say how near the other sides are to the truth
    try:
        return scene_of_run(opened.config.source, opened.meta, progress, capture=capture)
    except UserError as error:
        if capture is not None:
            raise
        progress.warn(f"{error.what}: {consequence}")
        return None
