"""`nsx train [METHOD] INPUT`: photos, a video or a posed capture become a trained run, watched in the browser."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from ..errors import UserError
from ..training.config import SceneSource, TrainConfig
from .console import Output
from .options import CommonOptions, DeviceOptions, PictureOptions, ViewerOptions, one_of
from .parsing import did_you_mean, flag_arities, split_words

if TYPE_CHECKING:
    from ..scenes.model import Scene
    from ..training.team import Team
    from .session import Session

DEFAULT_METHOD = "ngp"
DEFAULT_MAX_SIDE = 1600
"""Larger photos are reduced to this side: they cost memory and evaluation time and add little to the scene."""


@dataclass(frozen=True)
class TrainOptions(PictureOptions, DeviceOptions, ViewerOptions, CommonOptions):
    """Options of `nsx train` that all methods share."""

    source: tyro.conf.Positional[Path | None] = None
    """Photo folder, video, or posed capture (transforms.json, Blender, LLFF, COLMAP)."""

    resume: Path | None = None
    """Go on with this run instead of starting one; other options then change its settings."""

    allow_changed: bool = False
    """With --resume: go on although photos, poses or the version have changed since; config.json notes it."""

    output_dir: Path = Path("outputs")
    """Where runs go: OUTPUT_DIR/SCENE/METHOD/TIMESTAMP."""

    scene_name: str | None = None
    """Name of the scene's folder (default: from the input's name)."""

    viewer: bool = True
    """Serve the live viewer while training."""

    preview: Literal["gnt"] | None = None
    """Show this in the viewer as soon as there are poses, until the trained field is better: gnt (shipped weights). It
    stays there to compare with."""

    keep_viewer: bool = False
    """Keep the viewer open when training has ended, until Ctrl+C."""

    downscale_factor: float | None = None
    """Divide the photos' width and height by this."""

    max_side: int = DEFAULT_MAX_SIDE
    """Reduce photos until no side is longer, in pixels; 0 keeps them."""

    split_every: int = 8
    """Hold out every so many photos by name, where the capture has no split of its own."""

    max_images: int | None = None
    """At most so many held-out photos are compared at the end (default: all); 0 skips the comparison."""

    train: TrainConfig = field(default_factory=TrainConfig)
    """The training loop."""


def options_for(argv: list[str]) -> tuple[type[TrainOptions], list[str]]:
    """The options of the method that the words name (default: ngp), and the words without it."""
    from ..methods import known_methods

    methods = {name: entry for name, entry in known_methods().items() if entry.is_trainable}
    name, rest = _take_method(argv, methods)
    config = methods[name or DEFAULT_METHOD].config
    if name == "lift":
        from .lift import options_for as options_of_lift

        return options_of_lift(rest, config)
    own = ("method_config", config, field(default_factory=config))
    options = dataclasses.make_dataclass("Options", [own], bases=(TrainOptions,), frozen=True)
    if name is None:
        words, _ = split_words(options, rest, "train")
        if len(words) == 2 and not Path(words[0]).exists():
            hint = did_you_mean(words[0], methods)
            raise UserError(
                f"unknown method '{words[0]}'{hint}", where="nsx train", fix=f"Methods are: {', '.join(methods)}"
            )
    return options, rest


def _take_method(argv: list[str], names: Iterable[str]) -> tuple[str | None, list[str]]:
    """The first word that is a method's name and no flag's value, and the other words."""
    arities = flag_arities(TrainOptions)
    for index, word in enumerate(argv):
        before = argv[index - 1] if index else ""
        is_value = before.startswith("--") and "=" not in before and arities.get(before.replace("_", "-"), 1) > 0
        if word in names and not is_value:
            return word, argv[:index] + argv[index + 1 :]
    return None, argv


def run(options: Any, out: Output, after_training: Callable[[Session], dict[str, object]] | None = None) -> int:
    """Prepare, train, evaluate, report; the exit code says how training ended.

    Several processes that `torchrun` started train together: the first does all of this, the others help it train.
    """
    from ..training.team import joined
    from . import lift
    from .following import follow

    with joined() as team:
        if team is not None and not team.is_leading:
            return follow(team)
        if isinstance(options, lift.LiftOptions):
            if team is not None:
                raise UserError("lift trains in one process only", where="torchrun", fix="Start it without torchrun")
            return lift.run(options, out)
        return _resume(options, out, team) if options.resume is not None else _begin(options, out, after_training, team)


def _begin(
    options: Any, out: Output, after_training: Callable[[Session], dict[str, object]] | None, team: Team | None
) -> int:
    source = one_of("train", "INPUT", options.source)

    from .. import methods
    from ..training.capture_identity import FILE as IDENTITY
    from ..training.capture_identity import identity_of
    from ..training.config import RunConfig
    from ..training.photos import give_photos
    from ..training.runs import Run, write_json
    from .capture import prepare_capture
    from .following import brief
    from .session import Session

    with out.progress() as progress:
        began = time.perf_counter()
        posed = prepare_capture(source, options.output_dir, options.scene_name, progress)
        device = methods.device_for(options.method_config, options.device)
        method_config = methods.for_device(options.method_config, device)
        config = RunConfig(
            method=methods.settled(method_config),
            train=options.train,
            source=SceneSource(
                path=str(posed.path.resolve()),
                downscale=options.downscale_factor,
                max_side=options.max_side or None,
                split_every=options.split_every,
            ),
        )
        loading = time.perf_counter()
        scene = load_source(config.source, progress, memory_budget=options.memory_budget, scratch=options.output_dir)
        scene = dataclasses.replace(scene, meta=dataclasses.replace(scene.meta, name=posed.scene_name))
        with Run.create(options.output_dir, config, scene.meta) as run_folder:
            method = methods.build(method_config, scene.meta, seed=config.train.seed, device=device)
            give_photos(method, scene, run_folder.path)
            write_json(run_folder.path / IDENTITY, identity_of(scene))
            if team is not None:
                brief(team, config, scene.meta, method)
            session = Session(options, out, progress, run_folder, scene, method, after_training=after_training)
            session.preview, session.team = options.preview, team
            session.seconds |= {"pose_seconds": loading - began, "load_seconds": time.perf_counter() - loading}
            return session.train()


def _resume(options: Any, out: Output, team: Team | None) -> int:
    from .. import methods
    from ..training.photos import give_photos
    from ..training.runs import Run
    from .evaluate import scene_of_run
    from .following import brief
    from .resuming import refuse_changes, refuse_settings
    from .session import Session

    if options.source is not None:
        raise UserError(
            f"--resume takes the capture from the run, '{options.source}' is too much",
            where="nsx train",
            fix="Leave it out",
        )
    if options.method_config != type(options.method_config)():
        raise UserError(
            "the method's settings are part of its weights",
            where="nsx train --resume",
            fix="Change --max-steps and such only",
        )
    with out.progress() as progress, Run.open(options.resume) as run_folder:
        began = time.perf_counter()
        config = run_folder.config
        refuse_settings(options, config)
        train = dataclasses.replace(config.train, **changes_from_default(options.train))
        meta = run_folder.scene_meta()
        scene = scene_of_run(
            config.source, meta, progress, memory_budget=options.memory_budget, scratch=run_folder.path,
            judge=lambda found: refuse_changes(run_folder, found, is_allowed=options.allow_changed),
        )  # fmt: skip
        for line in run_folder.change_config(dataclasses.replace(run_folder.config, train=train)):
            out.say(f"changed: {line}")
        method = methods.build(config.method, meta, seed=config.train.seed, device=options.device)
        give_photos(method, scene, run_folder.path)
        if team is not None:
            brief(team, run_folder.config, meta, method)
        session = Session(options, out, progress, run_folder, scene, method, team=team)
        session.seconds["load_seconds"] = time.perf_counter() - began
        return session.train(resume=True)


def changes_from_default(config: TrainConfig) -> dict[str, Any]:
    """The settings that differ from the defaults: those given on the command line."""
    default = TrainConfig()
    pairs = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    return {name: value for name, value in pairs.items() if value != getattr(default, name)}


def load_source(
    source: SceneSource, progress: Any, *, memory_budget: int | None = None, scratch: Path | None = None
) -> Scene:
    """The capture of a run, with its photos; see `load_scene`."""
    from ..scenes import load_scene

    return load_scene(
        Path(source.path),
        downscale=source.downscale,
        max_side=source.max_side,
        split_every=source.split_every,
        memory_budget=memory_budget,
        scratch=scratch,
        progress=progress,
    )
