"""`nsx stega robustness RUN --payload-id HEX --key K`: what is left of a run's mark after all that may happen to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from ..errors import TrainingFailed, UserError
from .console import Output
from .options import CommonOptions, one_of
from .stega_extract import read_key
from .stega_inputs import messages_of, photos_of
from .stega_verify import marked_of, reader_of, say_owners

if TYPE_CHECKING:
    from ..stages.stega.messages import Message
    from ..stages.stega.reading_back import Reader
    from ..stages.stega.robustness import Robustness
    from ..training.runs import OpenedRun

TABLE, CHART = "robustness.json", "robustness.svg"


@dataclass(frozen=True)
class RobustnessOptions(CommonOptions):
    """Options of `nsx stega robustness`."""

    command: ClassVar[str] = "stega robustness"
    summary: ClassVar[str] = "Measure what a marked run's message survives: files, filters, films, damaged models."

    run: tyro.conf.Positional[Path | None] = None
    """Marked run, or a folder that holds runs: the newest is taken."""

    payload_id: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="HEX")] = ()
    """The identity it carries: 12 hexadecimal digits. Of a run with several owners give all, in the order in which it
    was marked: then it is measured whose pictures are recognised as whose."""

    text: str | None = None
    """The text it carries instead."""

    bytes_hex: str | None = None
    """The bytes it carries instead, as hexadecimal digits."""

    key: str | None = None
    """The key it was marked with; --key-file or the variable NSX_STEGA_KEY hide it from others on this machine."""

    key_file: Path | None = None
    """File that holds the key."""

    views: int = 8
    """Unseen views to look at."""

    size: int | None = None
    """Longer side of the pictures (default: that at which the run was marked)."""

    only: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KIND")] = ()
    """Kinds of ordeals of pictures, such as jpeg; may be given several times (default: all)."""

    film_frames: int = 24
    """Frames of the H.264 film; 0 leaves it out."""

    alarm_pairs: int = 10_000
    """Pairs of a picture and a wrong key in the search for false alarms; 0 leaves it out."""

    skip_base: bool = False
    """Damage the mark's own parameters only, not those of the method beneath, which is slow to render."""

    output_dir: Path | None = None
    """Where robustness.json and robustness.svg go (default: the run folder)."""

    capture: Path | None = None
    """The capture, if it has moved since training."""

    seed: int = 0
    """Of all random choices."""


def options_for(argv: list[str]) -> tuple[type[RobustnessOptions], list[str]]:
    """One kind of options."""
    return RobustnessOptions, argv


def run(options: RobustnessOptions, out: Output) -> None:
    """Measure, print the table, write it with a chart."""
    source = one_of("stega robustness", "run", options.run)
    _check_numbers(options)

    from ..stages.stega.robustness import RobustnessSettings, measure_robustness
    from ..training.runs import open_run, write_json
    from .stega_films import reencode

    messages = messages_of(options.payload_id, options.text, options.bytes_hex)
    key = read_key(options.key, options.key_file)
    opened = open_run(source)
    reader, size = reader_of(opened, key, messages)
    if len(messages) > 1:
        return _measure_owners(options, opened, reader, messages, options.size or size, out)
    settings = RobustnessSettings(
        views=options.views, size=options.size or size, groups=options.only or None, film_frames=options.film_frames,
        with_base=not options.skip_base, alarm_pairs=options.alarm_pairs, seed=options.seed,
    )  # fmt: skip
    with out.progress() as progress:
        scene = photos_of(opened, progress, options.capture, "renders are not compared with photos")
        found = measure_robustness(marked_of(opened), opened.meta, scene, reader, settings, reencode, progress)
    folder = options.output_dir or opened.path
    result = {"schema": 1, "run": str(opened.path), "code": reader.layout.name, **found.to_json()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / TABLE, result)
        (folder / CHART).write_text(_chart(found), encoding="utf-8")
    except OSError as error:
        raise TrainingFailed(f"{folder}: the results cannot be written: {error.strerror}") from error
    _say(found, folder, out)
    out.result(result)


def _measure_owners(
    options: RobustnessOptions, opened: OpenedRun, reader: Reader, messages: list[Message], size: int, out: Output
) -> None:
    from ..stages.stega.identities import share_out
    from ..stages.stega.owner_table import measure_owners
    from ..stages.stega.robustness import RobustnessSettings
    from ..training.runs import write_json

    owners = share_out(messages, opened.meta.training_cameras(), reader.key, reader.layout)
    settings = RobustnessSettings(views=options.views, size=size, groups=options.only or None, seed=options.seed)
    with out.progress() as progress:
        rows = measure_owners(marked_of(opened), opened.meta, owners, reader, settings, progress)
    folder = options.output_dir or opened.path
    result = {"schema": 1, "run": str(opened.path), "owners": owners.to_json(), "rows": [row.to_json() for row in rows]}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / TABLE, result)
    except OSError as error:
        raise TrainingFailed(f"{folder}: the results cannot be written: {error.strerror}") from error
    for row in rows[:1]:
        say_owners(row.confusion, owners, out)
    out.box(
        "Single unseen pictures recognised as their owner's, as another's, as nobody's",
        {f"{row.group}, {row.amount}": "   ".join(f"{count:4d}" for count in row.counts) for row in rows},
    )
    out.say(f"\n{folder / TABLE} holds the numbers")
    out.result(result)


def _check_numbers(options: RobustnessOptions) -> None:
    from ..stages.stega.ordeals import GROUPS

    limits = {"views": (1, 1000), "film_frames": (0, 1000), "alarm_pairs": (0, 10**7), "size": (64, 2048)}
    for name, (low, high) in limits.items():
        value = getattr(options, name)
        if value is not None and not low <= value <= high:
            raise UserError(
                f"{value} is not from {low} to {high}", where=f"--{name.replace('_', '-')}", fix="Give a number within"
            )
    for group in options.only:
        if group not in GROUPS:
            raise UserError(f"no kind is called '{group}'", where="--only", fix=f"Choose among {', '.join(GROUPS)}")


def _chart(found: Robustness) -> str:
    from ..stages.stega.robustness_chart import robustness_chart

    return robustness_chart(found.rows)


def _say(found: Robustness, folder: Path, out: Output) -> None:
    from ..stages.stega.reading_back import TOGETHER

    out.box(
        f"Read after what happened to it ({found.rows[0].read.pictures} unseen views)" if found.rows else "Read",
        {
            f"{row.group}, {row.amount}": f"{100 * row.read.bit_accuracy:5.1f} % of the bits   exact from one "
            f"{100 * row.read.exact_one:3.0f} %, from {min(TOGETHER, row.read.pictures)} together "
            f"{100 * row.read.exact_four:3.0f} %"
            for row in found.rows
        },
    )
    fidelity: dict[str, object] = {
        name: f"{near.psnr:.2f} dB, worst {near.worst_psnr:.2f} dB, SSIM {near.ssim:.4f}"
        for name, near in found.likeness.items()
    }
    out.box("Fidelity", fidelity)
    alarms: dict[str, object] = {
        "true key, unmarked pictures": f"{found.unmarked_alarms[0]} of {found.unmarked_alarms[1]}"
    }
    if found.alarms is not None:
        wrong = found.alarms
        alarms["wrong keys"] = f"{wrong.read} messages read, {wrong.recognised} recognised in {wrong.pairs:,} pairs"
        alarms["bits under wrong keys"] = f"{100 * wrong.bit_agreement:.2f} % (+- {100 * wrong.bit_deviation:.1f})"
    out.box("False alarms", alarms)
    if found.film_exact is not None:
        out.say(f"\nThe whole film {'gives the exact message' if found.film_exact else 'does not give the message'}.")
    out.say(f"\n{folder / CHART} shows it; {folder / TABLE} holds the numbers")
