"""`nsx import`: weights that other programs trained, converted to files that run no code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from ..errors import UserError
from .console import Output
from .options import CommonOptions, one_of
from .parsing import did_you_mean


@dataclass(frozen=True)
class ImportOptions(CommonOptions):
    """Options of `nsx import`."""

    kind: tyro.conf.Positional[str | None] = None
    """What the file belongs to: gnt (official GNT checkpoints, model_XXXXXX.pth)."""

    file: tyro.conf.Positional[Path | None] = None
    """The checkpoint."""

    output_path: Path | None = None
    """The file to write (default: the checkpoint's name with .safetensors, in this folder)."""

    overwrite: bool = False
    """Replace the file if it exists."""


def options_for(argv: list[str]) -> tuple[type[ImportOptions], list[str]]:
    """One kind of options."""
    return ImportOptions, argv


def run(options: ImportOptions, out: Output) -> None:
    """Convert, and say what was found."""
    if options.kind not in IMPORTERS:
        hint = "" if options.kind is None else did_you_mean(options.kind, IMPORTERS)
        what = "no kind of weights was given" if options.kind is None else f"unknown kind '{options.kind}'{hint}"
        raise UserError(what, where="nsx import", fix=f"Use {' or '.join(IMPORTERS)}, then the file")
    source = one_of("import", "FILE", options.file)
    target = options.output_path or Path(f"{source.stem}.safetensors")
    if target.exists() and not options.overwrite:
        raise UserError("exists", where=target, fix="Choose another --output-path, or give --overwrite")
    facts = IMPORTERS[options.kind](source, target)
    facts = {"kind": options.kind, "output": target, **facts}
    out.say(f"{target}: {', '.join(f'{name} {value}' for name, value in facts.items() if name != 'output')}")
    out.result(facts)


def _import_gnt(source: Path, target: Path) -> dict[str, Any]:
    from ..methods.gnt_import import import_gnt

    architecture = import_gnt(source, target).architecture
    return {"depth": architecture.depth, "width": architecture.width}


IMPORTERS: dict[str, Callable[[Path, Path], dict[str, Any]]] = {"gnt": _import_gnt}
"""By kind: reads a checkpoint, writes a file of ours, returns what to tell about it."""
