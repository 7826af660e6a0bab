"""`nsx train lift PHOTO`: prepare -> (invert) -> lift -> (refine), each with a picture, each can be gone on with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ..errors import UserError
from ..stages.lift.invert import InvertSettings
from ..stages.lift.photo import one_photo
from ..stages.lift.prepare import PrepareSettings
from ..stages.lift.refine import RefineSettings
from .capture import name_of
from .console import Output
from .parsing import split_words
from .train import TrainOptions

if TYPE_CHECKING:
    from ..methods.lift_config import LiftConfig
    from ..methods.priors import Prior
    from ..progress import Progress
    from ..scenes.prepared import PreparedPhoto
    from ..training.runs import Run
    from .session import Session

LIFTED = "lifted.png"
PRIOR_FILE = "prior.json"
_STAMP = "input.json"
_MAX_FOLDERS = 1000
_PARTS = ("weights", "hash")
"""Settings of the method that are groups of settings."""
_WITH_OWN_LENS = ("tiny", "empirical")
"""Priors that know one lens only: the photo is taken to be from it, or the sides would not fit the front."""
KNOWS = {
    "tiny": "eight kinds of simple computed things (boxes, mugs, chairs ...) and how their backs look. It shows "
    "what lifting does and knows nothing of the real world: for photos of that use --prior sd or --prior view",
    "empirical": "a set of renders of simple computed things, and nothing else",
    "sd": "what things look like that a text names; nothing of this photo",
    "view": "how photos of single objects look from elsewhere",
    "null": "nothing: whatever the photo does not show stays undefined",
}
"""What each prior knows, in the words for users."""


@dataclass(frozen=True)
class LiftOptions(TrainOptions):
    """Options of `nsx train lift` beside the method's own."""

    negative_text: str = ""
    """What the object shall not look like, for priors that read."""

    prepare: PrepareSettings = field(default_factory=PrepareSettings)
    """The photo."""

    invert: bool = False
    """First learn a word for the object, with --prior sd."""

    inverting: InvertSettings = field(default_factory=InvertSettings)
    """The word."""

    clip_weight: float = 1.0
    """Weight of the pull towards the photo in the eyes of --clip-model, for a preset that has none of its own."""

    finest_resolution: int | None = None
    """Finest cells of the field per scene unit; the object is about one unit long (default: 96)."""

    refine: bool = False
    """Go on at a higher resolution afterwards, in a run of its own."""

    refining: RefineSettings = field(default_factory=RefineSettings)
    """The refinement."""


def options_for(argv: list[str], config: type) -> tuple[type[LiftOptions], list[str]]:
    """The options of `nsx train lift`.

    Args:
        argv: The words without the method's name.
        config: The method's config dataclass.
    Raises:
        UserError: for two photos.
    """
    flags = _without_parts(config)
    own = ("method_config", flags, field(default_factory=flags))
    options = dataclasses.make_dataclass("Options", [own], bases=(LiftOptions,), frozen=True)
    words, _ = split_words(options, argv, "train lift")
    if len(words) > 1:
        one_photo([Path(word) for word in words])
    return options, argv


def _without_parts(config: type) -> type:
    """The method's config with the parts that are no flags fixed: their names are those of other flags."""
    parts: list[Any] = []
    for part in dataclasses.fields(config):
        if part.name in _PARTS:
            hint = Annotated[Any, tyro.conf.Fixed, tyro.conf.Suppress]
            default = (
                {"default_factory": part.default_factory} if part.default is MISSING else {"default": part.default}
            )
            parts.append((part.name, hint, field(**default)))
    return dataclasses.make_dataclass("LiftFlags", parts, bases=(config,), frozen=True)


def config_of(options: Any) -> LiftConfig:
    """The method's settings as the flags say."""
    from ..methods.lift_config import LiftConfig

    given = options.method_config
    config = LiftConfig(**{f.name: getattr(given, f.name) for f in dataclasses.fields(LiftConfig)})
    if options.finest_resolution is not None:
        cells = dataclasses.replace(config.hash, finest_resolution=options.finest_resolution)
        config = dataclasses.replace(config, hash=cells)
    weights = config.loss_weights
    if config.clip_model and not (weights.clip or weights.clip_image):
        weights = dataclasses.replace(weights, clip_image=options.clip_weight)
        config = dataclasses.replace(config, weights=weights)
    return config


def run(options: Any, out: Output) -> int:
    """Do all stages; the exit code says how the last one ended."""
    if options.resume is not None:
        return _resume(options, out)
    photo = _photo_of(options)
    config = config_of(options)
    _check_words(config, options.invert)
    last = _LastResult(out)
    with out.progress() as progress:
        folder, prepared = prepared_folder(photo, options, config, progress)
        progress.finish()
        _say_prepared(prepared, folder, out)
        config = _invert(options, config, prepared, folder, out, progress)
        session, prior = _session(options, config, folder, last, progress)
        more: dict[str, object] = {"prepared": folder, "prior": prior.facts.name, "licence": prior.facts.licence}
        with session.run:
            code = session.train()
        code = _refine(options, session.run.path, prior, last, progress) if code == 0 and options.refine else code
    out.result({**last.value, **more})
    return code


def _photo_of(options: Any) -> Path:
    """The photo, or the folder of one that was prepared before."""
    from ..scenes.prepared import is_prepared

    source: Path | None = options.source
    if source is not None and is_prepared(source):
        return source
    return one_photo([] if source is None else [source])


def prepared_folder(photo: Path, options: Any, config: LiftConfig, progress: Progress) -> tuple[Path, PreparedPhoto]:
    """The prepared photo: made now, or before from the same files with the same options.

    Args:
        photo: The photo, or a folder that holds a prepared one.
        options: `LiftOptions`.
        config: The method's settings.
        progress: Shows the stages.
    """
    from ..scenes.prepared import is_prepared, read_prepared
    from ..stages.lift.hub_pictures import HubOptions
    from ..stages.lift.prepare import Words, prepare_photo
    from ..strict_json import read_json
    from ..training.runs import write_json

    if is_prepared(photo):
        return photo, read_prepared(photo)
    settings: PrepareSettings = options.prepare
    if settings.fov is None and config.prior in _WITH_OWN_LENS:
        from ..scenes.prepared import FOV_Y_DEG

        settings = dataclasses.replace(settings, fov=FOV_Y_DEG)
    words = Words(config.text, options.negative_text, config.class_name)
    files = [path for path in (photo, settings.mask, settings.depth) if path is not None]
    for path in files:
        if not path.is_file():
            raise UserError("no such file", where=path, fix="Check the path")
    stats = {str(path.resolve()): path.stat() for path in files}
    stamp: dict[str, Any] = {
        "files": {path: [stat.st_size, stat.st_mtime_ns] for path, stat in stats.items()},
        "options": repr((settings, words)),
    }
    name = options.scene_name or name_of(photo)
    for n in range(1, _MAX_FOLDERS):
        folder = options.output_dir / name / ("prepared" if n == 1 else f"prepared-{n}")
        if is_prepared(folder) and (folder / _STAMP).is_file() and read_json(folder / _STAMP, 1 << 20) == stamp:
            progress.stage(f"{photo.name}: prepared before, taken from {folder}")
            return folder, read_prepared(folder)
        if not is_prepared(folder):
            break
    hub = HubOptions(offline=config.offline, device=_device(options))
    prepared = prepare_photo(photo, folder, settings, words, hub, progress)
    write_json(folder / _STAMP, stamp)
    return folder, prepared


def say_prior(prior: Prior, out: Output) -> None:
    """Say plainly what the prior is, what it knows, whose it is, and what it will take."""
    facts = prior.facts
    rows: dict[str, object] = {"knows": KNOWS.get(facts.name, "see its documentation"), "licence": facts.licence}
    rows |= dict(facts.models or {})
    estimate = getattr(prior, "estimated_bytes", None)
    if estimate is not None:
        mode = "low-memory mode" if getattr(prior, "low_memory", False) else "normal mode"
        rows["memory"] = f"about {estimate / 1e9:.1f} GB at the peak ({mode}; estimated, not measured)"
    out.box(f"Prior '{facts.name}'", rows)


class _LastResult(Output):
    """An output that keeps the result of a stage back until the command has its own."""

    def __init__(self, out: Output) -> None:
        super().__init__(None)
        self._out = out
        self.value: dict[str, Any] = {}

    @property
    def stream(self) -> Any:
        return self._out.stream

    def warn(self, text: str) -> None:
        self._out.warn(text)

    def result(self, value: Mapping[str, Any]) -> None:
        before = {"lifted": self.value["run"]} if "run" in self.value else {}
        self.value = {**before, **value}


def _say_prepared(prepared: PreparedPhoto, folder: Path, out: Output) -> None:
    from ..stages.lift.pictures import PICTURE

    notes = prepared.notes
    rows: dict[str, object] = {}
    for line in notes.made_by:
        name, separator, what = line.partition(": ")
        rows[name if separator else "note"] = what or line
    rows |= {"distance": f"{notes.distance:.2f}", "picture": folder / PICTURE}
    out.box(f"Prepared {notes.source}", rows)


def _check_words(config: LiftConfig, inverts: bool) -> None:
    """Refuse, before any work, what can only fail after it."""
    if inverts and config.prior != "sd":
        raise UserError("only Stable Diffusion learns words", where="--invert", fix="Add --prior sd, or leave it out")
    if config.prior == "sd" and not config.text and not inverts:
        raise UserError(
            "Stable Diffusion must be told what the photo shows", where="--prior sd",
            fix='Give --text "a blue wooden chair", or let --invert learn a word for it',
        )  # fmt: skip


def _invert(
    options: Any, config: LiftConfig, prepared: PreparedPhoto, folder: Path, out: Output, progress: Any
) -> LiftConfig:
    """The settings of lifting with the word learned, where one is wanted."""
    if not options.invert:
        return config
    from ..methods.pretrained import ModelSource
    from ..methods.priors.stable_diffusion import DEFAULT_MODEL, load_parts
    from ..stages.lift.invert import PICTURE, WORD_FILE, learn_word

    settings: InvertSettings = options.inverting
    source = ModelSource(config.prior_model or DEFAULT_MODEL, config.prior_revision, config.offline)
    target = folder / "word"
    file = learn_word(
        load_parts(source), prepared, config.text, settings, target, seed=options.train.seed, device=_device(options),
        progress=progress,
    )  # fmt: skip
    progress.finish()
    out.say(f"learned {settings.word}: {target / WORD_FILE}, drawn in {target / PICTURE}")
    text = f"{settings.word} {config.text}".strip()
    return dataclasses.replace(config, text=text, embedding=str(file.resolve()))


def _session(options: Any, config: LiftConfig, folder: Path, out: Output, progress: Any) -> tuple[Session, Prior]:
    """A fresh run, its method and everything to train it."""
    from ..methods.lift import Lift
    from ..methods.lift_batches import read_photo
    from ..methods.priors import make_prior
    from ..scenes import load_scene
    from ..training.config import RunConfig, SceneSource
    from ..training.runs import Run
    from .session import Session

    settled = config.settled()
    progress.stage(f"loading the prior '{config.prior}'")
    prior = make_prior(config.prior_settings(_device(options)))
    progress.finish()
    say_prior(prior, out)
    scene = load_scene(folder, progress=progress)
    prior.take_subject(read_photo(scene, settled.side).subject(settled))  # refusals come before there is a run
    name = options.scene_name or folder.parent.name
    scene = dataclasses.replace(scene, meta=dataclasses.replace(scene.meta, name=name))
    train = options.train
    if train.max_steps is None and train.max_train_seconds is None:
        train = dataclasses.replace(train, max_steps=settled.schedule_steps)
    source = SceneSource(path=str(folder.resolve()))
    run_config = RunConfig(method=settled, train=train, source=source)
    run_folder = Run.create(options.output_dir, run_config, scene.meta)
    _keep_facts(run_folder, prior)
    method = Lift(settled, scene.meta, seed=train.seed, prior=prior)
    quiet = dataclasses.replace(options, keep_viewer=options.keep_viewer and not options.refine)
    session = Session(quiet, out, progress, run_folder, scene, method, after_training=show_views)
    return session, prior


def show_views(session: Session) -> dict[str, object]:
    """Write the picture of a lifted object: the photo, then front, both sides and back."""
    from ..scenes.prepared import read_prepared
    from ..stages.lift.pictures import save_picture, views_picture

    path = session.run.path / LIFTED
    session.progress.stage("pictures from all sides")
    save_picture(views_picture(session.renderer(), read_prepared(session.scene.root)), path)
    return {
        "all sides": path,
        "make a film": f"nsx render {session.run.path} --path orbit --output-path orbit.mp4",
        "make a mesh": f"nsx export mesh {session.run.path}",
    }


def _refine(options: Any, parent: Path, prior: Prior, out: Output, progress: Any) -> int:
    """Refine a finished run."""
    from ..stages.lift.refine import start_refining

    child = start_refining(parent, parent.parents[2], options.refining)
    out.say(f"\nRefining at {child.config.method.side} pixels, as a run of its own")
    _keep_facts(child, prior)
    return _resumed(options, child, prior, out, progress)


def _resume(options: Any, out: Output) -> int:
    """Go on with a run that was stopped, and refine it where that is asked."""
    from ..methods.lift_config import LiftConfig
    from ..methods.priors import make_prior
    from ..training.runs import Run
    from .train import changes_from_default

    if options.source is not None or options.invert or options.method_config != type(options.method_config)():
        raise UserError(
            "--resume takes photo and settings from the run", where="nsx train lift", fix="Leave the others out"
        )
    last = _LastResult(out)
    with out.progress() as progress:
        run_folder = Run.open(options.resume)
        config = run_folder.config
        if not isinstance(config.method, LiftConfig):
            run_folder.close()
            raise UserError("this run was not made by lifting", where=options.resume, fix="Use `nsx train --resume`")
        train = dataclasses.replace(config.train, **changes_from_default(options.train))
        for line in run_folder.change_config(dataclasses.replace(config, train=train)):
            out.say(f"changed: {line}")
        prior = make_prior(config.method.prior_settings(_device(options)))
        say_prior(prior, out)
        code = _resumed(options, run_folder, prior, last, progress)
        if code == 0 and options.refine:
            code = _refine(options, run_folder.path, prior, last, progress)
    out.result(last.value)
    return code


def _resumed(options: Any, run_folder: Run, prior: Prior, out: Output, progress: Any) -> int:
    from ..methods.lift import Lift
    from .evaluate import scene_of_run
    from .session import Session

    with run_folder:
        config, meta = run_folder.config, run_folder.scene_meta()
        scene = scene_of_run(config.source, meta, progress)
        method = Lift(config.method, meta, seed=config.train.seed, prior=prior)
        session = Session(options, out, progress, run_folder, scene, method, after_training=show_views)
        return session.train(resume=True)


def _keep_facts(run_folder: Run, prior: Prior) -> None:
    """Note in the run which prior it was lifted with, and whose it is."""
    from ..training.runs import write_json

    facts = prior.facts
    models = dict(facts.models or {})
    write_json(run_folder.path / PRIOR_FILE, {"prior": facts.name, "licence": facts.licence, "models": models})


def _device(options: Any) -> str:
    """Where priors compute; the field itself is trained on the processor."""
    import torch

    has_gpu = torch.cuda.is_available()
    if options.device == "cuda" and not has_gpu:
        raise UserError("torch finds no CUDA device", where="--device cuda", fix="Use --device cpu or auto")
    return "cuda" if has_gpu and options.device != "cpu" else "cpu"
