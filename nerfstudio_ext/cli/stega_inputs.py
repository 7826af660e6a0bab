"""What several actions of `nsx stega` are given: a message, and a run with or without its photos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError

if TYPE_CHECKING:
    from ..progress import Progress
    from ..scenes.model import Scene
    from ..stages.stega.messages import Message
    from ..training.runs import OpenedRun


def message_of(payload_id: str | None, text: str | None, bytes_hex: str | None) -> Message:
    """The one message that was given.

    Raises:
        UserError: if there is none or more than one, or it is not valid.
    """
    from ..stages.stega.messages import Message

    given = [value for value in (payload_id, text, bytes_hex) if value is not None]
    if len(given) != 1:
        what = "no message was given" if not given else "more than one message was given"
        raise UserError(what, where="nsx stega", fix="Give one of --payload-id, --text and --bytes-hex")
    if payload_id is not None:
        return Message.from_id(payload_id)
    if text is not None:
        return Message.from_text(text)
    try:
        return Message("bytes", bytes.fromhex(bytes_hex or ""))
    except ValueError:
        raise UserError(f"'{bytes_hex}' is not hexadecimal", where="--bytes-hex") from None


def photos_of(opened: OpenedRun, progress: Progress, capture: Path | None, consequence: str) -> Scene | None:
    """The capture with its photos; None, with a warning, where it is gone.

    Args:
        opened: The run.
        progress: Gets the warning.
        capture: Where it is now; must be right when given.
        consequence: What the user has to do without, as the warning says it.
    """
    from .evaluate import scene_of_run

    try:
        return scene_of_run(opened.config.source, opened.meta, progress, capture=capture)
    except UserError as error:
        if capture is not None:
            raise
        progress.warn(f"{error.what}: {consequence}")
        return None
