"""`nsx stega embed RUN --payload-id HEX --key K`: make a child run whose every picture carries a message."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from ..errors import UserError
from .console import Output
from .options import CommonOptions, one_of
from .stega_extract import read_key
from .stega_inputs import looked_at, messages_of, photos_of
from .stega_verify import say_owners, verify

if TYPE_CHECKING:
    from ..stages.stega.mark_scene import SceneMarking
    from ..stages.stega.marked_run import MarkedRun

_WITHOUT_PHOTOS = "the mark is made without photos, so that renders come further from them"


@dataclass(frozen=True)
class EmbedOptions(CommonOptions):
    """Options of `nsx stega embed`."""

    command: ClassVar[str] = "stega embed"
    summary: ClassVar[str] = "Hide a message in a scene: makes a child run whose pictures and videos carry it."

    run: tyro.conf.Positional[Path | None] = None
    """Run folder, or a folder that holds runs: the newest is taken. It is not changed."""

    payload_id: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="HEX")] = ()
    """Identity: 12 hexadecimal digits (48 bits). Given several times, each owner gets a region of the views, by where
    cameras stand, and pictures from there carry that identity."""

    text: str | None = None
    """A short text instead."""

    image: Path | None = None
    """A picture instead, kept at 64 x 64 pixels: a decoder of its own is trained with the scene and put into the child
    run. Who has that file has the picture; the key only seals it."""

    audio: Path | None = None
    """A sound instead, a WAV file of up to a second, likewise."""

    bytes_hex: str | None = None
    """A few bytes instead, as hexadecimal digits."""

    key: str | None = None
    """The key that reading needs. Others on this machine can see it while the command runs; --key-file or the
    variable NSX_STEGA_KEY hide it."""

    key_file: Path | None = None
    """File that holds the key."""

    psnr: float = 38.2
    """Marked against unmarked renders, mean over views, dB; a hard limit."""

    worst_psnr: float = 36.2
    """The same for each single view."""

    max_loss: float = 0.09
    """How much further from the photos renders may come to lie, dB; measured on photos held out of training."""

    steps: int = 1500
    """Steps of the embedding: more make the mark more robust; with --private 500 are enough."""

    size: int = 400
    """Longer side of the pictures it is made for, pixels; readers search sizes from half to twice of it."""

    code: str | None = None
    """Code to write in, such as id-127 or id-48 (default: the smallest that holds the message and can be read)."""

    private: bool = False
    """Train an extractor of your own with the scene. It reads more bits; only who has the file that is put into the
    child run reads them: keep it with the key."""

    decoder: Path | None = None
    """Extractor to write for, or with --private to begin with (default: the public one)."""

    output_dir: Path | None = None
    """Where the child run goes (default: where the parent is)."""

    capture: Path | None = None
    """The capture, if it has moved since training."""

    seed: int = 0
    """Of all random choices."""

    views: int = 400
    """Views of the scene to work on; a quarter from where photos were taken, the others from between. What is not
    looked at is not marked."""

    verify: Path | None = None
    """Check that this exported picture, video or folder carries the message (exit code 0: it does, 3: it does not).
    With a marked run nothing else is done; otherwise the new child is checked. A new name that ends in .mp4 is made
    first: a short flight around the scene."""


def options_for(argv: list[str]) -> tuple[type[EmbedOptions], list[str]]:
    """One kind of options."""
    return EmbedOptions, argv


def run(options: EmbedOptions, out: Output) -> int:
    """Embed, read back, say how it went."""
    source = one_of("stega embed", "run", options.run)
    if options.image is not None or options.audio is not None:
        return _hide(options, source, out)
    messages = messages_of(options.payload_id, options.text, options.bytes_hex)
    key = read_key(options.key, options.key_file)
    _check_numbers(options)

    from ..methods.marked import Marked
    from ..stages.stega.marked_run import mark_run
    from ..stages.stega.messages import layout_named
    from ..training.runs import open_run

    parent = looked_at(open_run(source))
    if options.verify is not None and isinstance(parent.method, Marked):
        with out.progress() as progress:
            code, answer = verify(parent, key, messages, options.verify, out, progress)
        out.result(answer)
        return code
    with out.progress() as progress:
        child = mark_run(
            parent, photos_of(parent, progress, options.capture, _WITHOUT_PHOTOS), key, messages[0],
            options.output_dir or parent.path.parents[2],
            others=messages[1:], settings=_settings(options),
            layout=None if options.code is None else layout_named(options.code), decoder=options.decoder,
            is_private=options.private, progress=progress,
        )  # fmt: skip
    _say(child, out)
    if options.verify is None:
        out.result(child.to_json())
        return 0
    with out.progress() as progress:
        code, answer = verify(open_run(child.path), key, messages, options.verify, out, progress)
    out.result({**child.to_json(), "verified": answer})
    return code


def _hide(options: EmbedOptions, source: Path, out: Output) -> int:
    """Hide a picture or a sound."""
    for name in ("payload_id", "text", "bytes_hex", "code", "decoder", "private", "verify"):
        if getattr(options, name) not in (None, (), False):
            what = f"--{name.replace('_', '-')} does not go with --image and --audio"
            raise UserError(what, where="nsx stega embed", fix="Give one of them")
    key = read_key(options.key, options.key_file)
    _check_numbers(options)

    from ..stages.stega.hidden_run import hide_in_run
    from ..training.runs import open_run
    from .stega_hidden import hidden_of, say_hidden

    hidden, parent = hidden_of(options.image, options.audio), looked_at(open_run(source))
    with out.progress() as progress:
        child = hide_in_run(
            parent, photos_of(parent, progress, options.capture, _WITHOUT_PHOTOS), key, hidden,
            options.output_dir or parent.path.parents[2], settings=_settings(options), progress=progress,
        )  # fmt: skip
    say_hidden(child, out)
    out.result(child.to_json())
    return 0


def _settings(options: EmbedOptions) -> SceneMarking:
    from ..stages.stega.embed import EmbedSettings
    from ..stages.stega.mark_scene import Fidelity, SceneMarking

    return SceneMarking(
        EmbedSettings(steps=options.steps), Fidelity(options.psnr, options.worst_psnr, options.max_loss),
        size=options.size, photo_views=-(-options.views // 4), other_views=options.views * 3 // 4,
        seed=options.seed,
    )  # fmt: skip


def _check_numbers(options: EmbedOptions) -> None:
    """Refuse what cannot work before any work is done."""
    limits = {"psnr": (25, 60), "worst_psnr": (20, 60), "max_loss": (0, 10), "steps": (1, 10**6), "size": (64, 2048)}
    for name, (low, high) in {**limits, "views": (4, 10_000)}.items():
        value = getattr(options, name)
        if not low <= value <= high:
            raise UserError(
                f"{value:g} is not from {low} to {high}",
                where=f"--{name.replace('_', '-')}",
                fix="Give a number within",
            )


def _say(child: MarkedRun, out: Output) -> None:
    check = child.check
    gain = child.marking.touch_up_gain
    rows: dict[str, object] = {
        "marked run": child.path,
        "code": f"{child.layout.name}, {child.layout.n} bits",
        "fidelity": f"{check.psnr:.1f} dB against unmarked, worst view {check.worst_psnr:.1f} dB",
    }
    if gain is not None:
        rows["touch-up"] = f"{gain:+.2f} dB against photos, before the mark"
    for name in check.found:
        together = "exact" if check.found_together[name] else "not read"
        rows[f"read back, {name}"] = (
            f"{check.found[name]} of {check.pictures} single pictures exact ({100 * check.bit_accuracy[name]:.1f} % of "
            f"the bits), 4 together: {together}"
        )
    out.box("Marked", rows)
    if check.confusion is not None:
        say_owners(check.confusion, child.owners, out)
    decoder = child.path / "decoder.safetensors"
    own = f" --decoder {decoder}" if decoder.is_file() else ""
    out.say(
        f"\nRead it from any picture: nsx stega extract PICTURE --key KEY{own}\nRender: nsx render {child.path} ..."
    )
    if not all(check.found_together.values()):
        out.warn("the message is not read from four pictures: use more --steps, a lower --psnr, or a shorter message")
