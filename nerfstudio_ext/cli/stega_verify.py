"""Whether an exported file carries the message of a run: `nsx stega embed RUN --verify FILE`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .console import Output
from .stega_extract import NOT_FOUND, odds

if TYPE_CHECKING:
    from ..methods.marked import Marked
    from ..progress import Progress
    from ..stages.stega.identities import Owners
    from ..stages.stega.keys import Key
    from ..stages.stega.messages import Message
    from ..stages.stega.reading_back import Reader
    from ..training.runs import OpenedRun

_FILM_FRAMES = 24


def verify(
    opened: OpenedRun, key: Key, messages: list[Message], file: Path, out: Output, progress: Progress
) -> tuple[int, dict[str, Any]]:
    """Check an exported picture, film or folder; a film that does not exist yet is made first.

    Args:
        opened: The marked run.
        key: Its key.
        messages: What it carries; with several owners, any of them will do.
        file: What was exported; a name that ends in .mp4 and is not taken becomes a short flight around the scene.
        out: Told the answer.
        progress: Told about the work.
    Returns:
        Exit code (0: it carries the message, 3: it does not), and the answer for scripts.
    Raises:
        UserError: if the run is not marked, does not hold such a message, or the file cannot be read.
    """
    from ..stages.stega.extraction import extract
    from ..stages.stega.picture_files import views_of

    reader, size = reader_of(opened, key, messages)
    is_made = not file.exists()
    if is_made:
        _make_film(opened, size, file, progress)
    found = extract(views_of(file, progress), key, extractor=reader.extractor, expected=messages, progress=progress)
    carries = found.present and found.message in messages
    if carries:
        out.say(f"{file} carries the message; chance of a false alarm {odds(found.p_value)}")
    else:
        bits = 100 * (found.bit_accuracy or 0.5)
        out.say(f"{file} does NOT carry the message: {bits:.0f} % of its code bits are right; chance is 50 %")
    answer = {"run": str(opened.path), "file": str(file), "is_made": is_made, "carries": carries, **found.to_json()}
    return 0 if carries else NOT_FOUND, answer


def _make_film(opened: OpenedRun, size: int, file: Path, progress: Progress) -> None:
    from ..stages.stega.marked_run import render_8bit
    from ..stages.stega.robustness import film_cameras
    from .stega_films import write_film

    if file.suffix.lower() != ".mp4" or not file.absolute().parent.is_dir():
        raise UserError("no such file", where=file, fix="Name an exported file, or a new .mp4 in a folder that exists")
    progress.stage("rendering a film", _FILM_FRAMES)
    frames = []
    for camera in film_cameras(opened.meta, size, _FILM_FRAMES):
        frames.append(render_8bit(opened.renderer(), camera))
        progress.advance(len(frames))
    write_film(frames, file)


def marked_of(opened: OpenedRun) -> Marked:
    """The method of a marked run.

    Raises:
        UserError: if the run is not marked.
    """
    from ..methods.marked import Marked

    if not isinstance(opened.method, Marked):
        raise UserError("this run is not marked", where=opened.path, fix="Pass a run that nsx stega embed made")
    return opened.method


def reader_of(opened: OpenedRun, key: Key, messages: Sequence[Message]) -> tuple[Reader, int]:
    """What a marked run is read with (for the first of the messages), and the size at which it was marked.

    Raises:
        UserError: if the run is not marked, has another number of owners, or its code does not hold such a message.
    """
    from ..stages.stega.extractor import load_extractor
    from ..stages.stega.marked_run import DECODER_FILE, MARK_FILE
    from ..stages.stega.messages import layout_named
    from ..stages.stega.payload import fits
    from ..stages.stega.reading_back import Reader
    from ..strict_json import read_json

    marked_of(opened)
    decoder, mark = opened.path / DECODER_FILE, opened.path / MARK_FILE
    data = read_json(mark, 1 << 20)
    code, settings = (data.get("code"), data.get("settings")) if isinstance(data, dict) else (None, None)
    size = settings.get("size") if isinstance(settings, dict) else None
    if not isinstance(code, str) or not isinstance(size, int) or not 64 <= size <= 1 << 14:
        raise UserError("it does not say how the run was marked", where=mark, fix="Embed the mark again")
    layout = layout_named(code)
    for message in messages:
        if not fits(message, layout):
            raise UserError(
                f"the run is marked in {layout.name}, which does not hold '{message.text}'", where=opened.path,
                fix="Give the message that it was marked with",
            )  # fmt: skip
    owners = data.get("owners")
    count = owners.get("count", 1) if isinstance(owners, dict) else 1
    if count != len(messages):
        raise UserError(
            f"the run has {count} owner(s), and {len(messages)} message(s) were given", where=opened.path,
            fix="Give one --payload-id for each owner, in the order in which it was marked",
        )  # fmt: skip
    return Reader(load_extractor(decoder if decoder.is_file() else None), key, messages[0], layout), size


def say_owners(confusion: list[list[int]], owners: Owners, out: Output) -> None:
    """Print who was recognised in the pictures of each owner's region."""
    heads = [*(f"as {number}" for number in range(1, len(confusion) + 1)), "as nobody"]
    out.box(
        f"Owners, told apart by at least {owners.min_distance} code bits; single unseen pictures recognised",
        {
            f"owner {number} ({owners.owner_of_camera.count(number - 1)} cameras)": "   ".join(
                f"{head}: {count}" for head, count in zip(heads, row, strict=True)
            )
            for number, row in enumerate(confusion, start=1)
        },
    )
