"""`nsx import`: weights that other programs trained, converted to files that run no code."""

from __future__ import annotations

import dataclasses
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
    """What the file belongs to: gnt (official GNT checkpoints, model_XXXXXX.pth) or aug (released Aug-NeRF)."""

    file: tyro.conf.Positional[Path | None] = None
    """The checkpoint."""

    output_path: Path | None = None
    """The file to write (default: the checkpoint's name with .safetensors, in this folder)."""

    overwrite: bool = False
    """Replace the file if it exists."""

    capture: Path | None = None
    """For aug: the posed capture that the networks were trained on; the result is a run of it."""

    output_dir: Path = Path("outputs")
    """For aug: where the run goes."""


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
    facts = {"kind": options.kind, **IMPORTERS[options.kind](options, source, out)}
    out.say(f"{facts['output']}: {', '.join(f'{name} {value}' for name, value in facts.items() if name != 'output')}")
    out.result(facts)


def _import_gnt(options: ImportOptions, source: Path, out: Output) -> dict[str, Any]:
    from ..methods.gnt_import import import_gnt

    target = options.output_path or Path(f"{source.stem}.safetensors")
    if target.exists() and not options.overwrite:
        raise UserError("exists", where=target, fix="Choose another --output-path, or give --overwrite")
    architecture = import_gnt(source, target).architecture
    return {"output": target, "depth": architecture.depth, "width": architecture.width}


def _import_aug(options: ImportOptions, source: Path, out: Output) -> dict[str, Any]:
    """A run at step 0: it opens, renders, is evaluated and can be trained further like any other."""
    from .. import methods
    from ..methods.aug_import import load_released, read_released
    from ..training.config import RunConfig, SceneSource, TrainConfig
    from ..training.runs import Run
    from ..training.trainer import Trainer
    from .capture import prepare_capture
    from .thumbnails import write_thumbnails
    from .train import DEFAULT_MAX_SIDE, load_source

    if options.capture is None:
        raise UserError("no capture was given", where="nsx import aug", fix="Name the posed capture with --capture")
    networks = read_released(source)
    with out.progress() as progress:
        posed = prepare_capture(options.capture, options.output_dir, None, progress)
        config = RunConfig(
            method=networks.config,
            train=TrainConfig(),
            source=SceneSource(path=str(posed.path.resolve()), max_side=DEFAULT_MAX_SIDE),
        )
        scene = load_source(config.source, progress)
        scene = dataclasses.replace(scene, meta=dataclasses.replace(scene.meta, name=posed.scene_name))
        with Run.create(options.output_dir, config, scene.meta) as run_folder:
            method = methods.build(config.method, scene.meta)
            load_released(method.scene, networks, scene.meta.frame)  # type: ignore[attr-defined]
            write_thumbnails(scene, run_folder.path)
            Trainer(method, scene, config.train, run_folder, progress=progress).save()
            return {"output": run_folder.path, "width": networks.width, "networks": len(networks.weights)}


IMPORTERS: dict[str, Callable[[ImportOptions, Path, Output], dict[str, Any]]] = {
    "aug": _import_aug,
    "gnt": _import_gnt,
}
"""By kind: reads a checkpoint, writes a file or a run of ours, returns what to tell about it."""
