"""`nsx stega extract PICTURES --key K`: find a message in pictures; needs no scene and no camera."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from ..errors import UserError
from .console import Output
from .options import CommonOptions, one_of

if TYPE_CHECKING:
    from ..stages.stega.findings import Extraction
    from ..stages.stega.keys import Key
    from ..stages.stega.messages import Message

NOT_FOUND = 3
KEY_VARIABLE = "NSX_STEGA_KEY"
_MAX_KEY_BYTES = 1 << 16
_LARGEST_RATE = 1e-2
_ROWS = 24
"""Pictures listed one by one."""


@dataclass(frozen=True)
class ExtractOptions(CommonOptions):
    """Options of `nsx stega extract`."""

    command: ClassVar[str] = "stega extract"
    summary: ClassVar[str] = "Find a message in pictures. Exit code 0: found, 3: not found."

    source: tyro.conf.Positional[Path | None] = None
    """A picture, a video, or a folder of pictures of one scene: several are read together. White shows through where
    a picture is transparent."""

    key: str | None = None
    """The key the message was written with. Others on this machine can see it while the command runs; --key-file or
    the variable NSX_STEGA_KEY hide it."""

    key_file: Path | None = None
    """File that holds the key; a line end after it does not count."""

    expect: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="HEX|TEXT")] = ()
    """A message in question: 12 hexadecimal digits (an identity), a text, or hex:... (bytes); may be given several
    times. It is recognised in pictures that are too damaged for reading. The code id-48, which has no check bits,
    cannot be read at all without it."""

    code: str | None = None
    """Code the message is written in, such as id-127 or id-48 (default: all are tried)."""

    decoder: Path | None = None
    """Extractor file of a scene that was marked privately (default: the public one), or the decoder.safetensors of one
    in which a picture or a sound is hidden: needs no key then, and checks one that is given."""

    output_dir: Path = Path()
    """Where a hidden picture or sound goes that was found: hidden.png or hidden.wav."""

    max_frames: int = 24
    """Frames of a video to look at."""

    max_false_alarm: float = 1e-6
    """Largest chance of finding a message where there is none."""


def options_for(argv: list[str]) -> tuple[type[ExtractOptions], list[str]]:
    """One kind of options."""
    return ExtractOptions, argv


def run(options: ExtractOptions, out: Output) -> int:
    """Look, say what was found; the exit code says whether."""
    source = one_of("stega extract", "picture, video or folder", options.source)
    if options.decoder is not None and _shows_pictures(options.decoder):
        return _look_for_hidden(options, source, options.decoder, out)
    key = read_key(options.key, options.key_file)
    if not 0 < options.max_false_alarm <= _LARGEST_RATE:
        raise UserError(
            f"{options.max_false_alarm:g} is not from 0 to {_LARGEST_RATE:g}",
            where="--max-false-alarm",
            fix="Give a share such as 1e-6",
        )
    if options.max_frames < 1:
        raise UserError(f"{options.max_frames} frames", where="--max-frames", fix="Look at one at least")

    from ..stages.stega.extraction import extract
    from ..stages.stega.extractor import load_extractor
    from ..stages.stega.messages import layout_named
    from ..stages.stega.picture_files import views_of

    expected = [parse_message(text) for text in options.expect]
    layouts = None if options.code is None else [layout_named(options.code)]
    extractor = load_extractor(options.decoder)
    with out.progress() as progress:
        found = extract(
            views_of(source, progress, max_frames=options.max_frames),
            key,
            extractor=extractor,
            expected=expected,
            layouts=layouts,
            max_false_alarm=options.max_false_alarm,
            progress=progress,
        )
    _say(found, out)
    out.result(found.to_json())
    return 0 if found.present else NOT_FOUND


def _shows_pictures(decoder: Path) -> bool:
    from ..stages.stega.picture_decoder import is_decoder

    return is_decoder(decoder)


def _look_for_hidden(options: ExtractOptions, source: Path, decoder: Path, out: Output) -> int:
    """Look for a hidden picture or sound."""
    from .stega_hidden import extract_with_decoder, say_found

    if options.expect or options.code is not None:
        raise UserError(
            "--expect and --code are about messages; this decoder reads pictures", where=decoder, fix="Leave both out"
        )
    if options.max_frames < 1:
        raise UserError(f"{options.max_frames} frames", where="--max-frames", fix="Look at one at least")
    has_key = options.key is not None or options.key_file is not None
    key = read_key(options.key, options.key_file) if has_key else None
    with out.progress() as progress:
        found, answer = extract_with_decoder(source, decoder, key, options.output_dir, options.max_frames, progress)
    say_found(found, answer, out)
    out.result(answer)
    return 0 if found.present else NOT_FOUND


def read_key(key: str | None, key_file: Path | None) -> Key:
    """The key from the command line, a file or the environment.

    Raises:
        UserError: if there is none, or two; if the file cannot be read.
    """
    from ..stages.stega.keys import Key

    if key is not None and key_file is not None:
        raise UserError("the key was given twice", where="--key and --key-file", fix="Give one of them")
    if key is not None:
        return Key(key)
    if key_file is not None:
        return Key(_secret_of(key_file))
    if KEY_VARIABLE in os.environ:
        return Key(os.environ[KEY_VARIABLE])
    raise UserError("no key was given", where="nsx stega", fix=f"Use --key, --key-file or the variable {KEY_VARIABLE}")


def _secret_of(path: Path) -> str | bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_KEY_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=path, fix="Check the path") from None
    if len(data) > _MAX_KEY_BYTES:
        raise UserError(
            f"more than {_MAX_KEY_BYTES >> 10} kB; not a key", where=path, fix="Pass the file that holds the key"
        )
    data = data.removesuffix(b"\n").removesuffix(b"\r")
    try:
        return data.decode()  # as typed on a command line, so that both mean the same key
    except UnicodeDecodeError:
        return data


def parse_message(text: str) -> Message:
    """A message as it is written on the command line: 12 hexadecimal digits, `hex:` and bytes, else text.

    Raises:
        UserError: if it is empty or the bytes are not hexadecimal.
    """
    from ..stages.stega.messages import Message

    if text.startswith("hex:"):
        try:
            return Message("bytes", bytes.fromhex(text[4:]))
        except ValueError:
            raise UserError(
                f"'{text}' is not hexadecimal", where="--expect", fix="Write two digits of 0-9 and a-f per byte"
            ) from None
    try:
        return Message.from_id(text)
    except UserError:
        return Message.from_text(text)


def _say(found: Extraction, out: Output) -> None:
    for warning in found.warnings:
        out.warn(warning)
    n, counts = len(found.views), f"{found.n_showing} of {len(found.views)} pictures"
    if found.present and found.message is not None and found.layout is not None:
        what = {"id48": "the identity", "text": "the text", "bytes": "the bytes"}[found.message.kind]
        where = "the picture" if n == 1 else counts if found.n_showing else f"{n} pictures taken together"
        out.say(f"found {what} '{found.message.text}' in {where}; chance of a false alarm {odds(found.p_value)}")
        rows = {
            view.name: f"{100 * (view.bit_accuracy or 0):5.1f} % of the code bits   scale {view.scale:.2f}   "
            f"confidence {view.confidence or 0:.2f}"
            if view.scale is not None
            else "left out"
            for view in found.views[:_ROWS]
        }
        if n > _ROWS:
            rows["..."] = f"and {n - _ROWS} more"
        out.box(f"code {found.layout.name}", rows)
        return
    pictures = "1 picture" if n == 1 else f"{n} pictures"
    out.say(f"no message found under this key in {pictures} (p = {found.p_value:.2g}, by random keys "
            f"{found.p_value_random_keys:.2g})")  # fmt: skip
    if found.bit_accuracy is not None:
        out.say(f"{100 * found.bit_accuracy:.0f} % of the expected code bits agree; chance is 50 %")


def odds(p_value: float) -> str:
    """A small probability in words: `1 in 2,500`, `1 in more than 10^9`."""
    if p_value <= 0:
        return "1 in more than 10^300"
    if p_value > 1e-6:
        return f"1 in {1 / p_value:,.0f}"
    return f"1 in more than 10^{math.floor(-math.log10(p_value))}"
