"""`nsx view`: walk through a finished run, or a scene file, in the browser. Needs neither the photos nor a GPU."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from .console import Output
from .options import CommonOptions, DeviceOptions, ViewerOptions, one_of
from .untrained import UntrainedOptions, run_without_training

if TYPE_CHECKING:
    from ..renderer import Renderer
    from ..training.runs import OpenedRun


@dataclass(frozen=True)
class ViewOptions(UntrainedOptions, DeviceOptions, ViewerOptions, CommonOptions):
    """Options of `nsx view`."""

    run: tyro.conf.Positional[Path | None] = None
    """Run folder, scene file (.nsx), or a folder that holds runs: the newest is taken. With --method: a capture."""

    compare: tuple[Path, ...] = ()
    """Further runs of the same capture, to compare with in the page."""

    checkpoint: int | None = None
    """Step of the checkpoint to show (default: the newest)."""


def options_for(argv: list[str]) -> tuple[type[ViewOptions], list[str]]:
    """One kind of options."""
    return ViewOptions, argv


def run(options: ViewOptions, out: Output) -> None:
    """Serve the page until Ctrl+C."""
    source = one_of("view", "RUN", options.run)

    from ..kernels import set_threads
    from ..methods import method_name
    from ..training.runs import open_run
    from ..training.scene_file import chosen_world_frame
    from ..viewer import Site, ViewerServer
    from ..viewer.provenance import provenance_panel
    from .paths import up_of
    from .thumbnails import read_thumbnails
    from .view_exports import exports_of
    from .view_marks import unmarked_of, verifier_of
    from .viewer_links import link_lines, viewer_secret

    if options.method is not None:
        opened, _ = run_without_training(source, options, out)
    else:
        opened = open_run(source, checkpoint=options.checkpoint, device=options.device)
    others = others_of(options, opened)
    meta = opened.meta
    site = Site(
        folder=opened.results,
        frame=meta.frame,
        world=chosen_world_frame(opened.path),
        photo_names=[meta.image_names[i] for i in meta.split.train],
        exports=exports_of(lambda: opened),
        content_id=lambda: f"{opened.path.name} step {opened.step}",
    )
    viewer = ViewerServer(
        meta.training_cameras().select(list(meta.split.train)),
        read_thumbnails(meta, opened.path),
        site=site,
        up=up_of(meta),
        host=options.host,
        port=options.port,
        names=options.allow_host,
        secret=viewer_secret(),
        label=meta.name,
        set_threads=set_threads,
        notice=out.say,
    )
    try:
        unmarked = unmarked_of(opened)
        viewer.add_panel(provenance_panel(verifier_of(opened), is_open=unmarked is not None))
        viewer.set_renderer(opened.renderer())
        if unmarked is not None:
            viewer.set_renderer(unmarked, "unmarked")
        for name, renderer in others.items():
            viewer.set_renderer(renderer, name)
        out.say(f"{opened.path}: {method_name(opened.config.method)}, step {opened.step}, {meta.kind}")
        for line in link_lines(viewer):
            out.say(line)
        out.say("Ctrl+C ends")
        links = {"url": viewer.link("owner"), "watcher_url": viewer.link("watcher")}
        out.result({"run": opened.path, "step": opened.step, "compared": list(others), **links})
        wait_for_interrupt()
    finally:
        viewer.close()


def others_of(options: ViewOptions, opened: OpenedRun) -> dict[str, Renderer]:
    """The runs to compare with, each moved into the frame of the one that is shown."""
    from ..training.runs import open_run
    from ..viewer.moved import moved

    found: dict[str, Renderer] = {}
    for path in options.compare:
        other = open_run(path, device=options.device)
        name = other.path.stem
        while name in found or name == "this run":
            name += "'"
        found[name] = moved(other.renderer(), opened.meta.frame, other.meta.frame)
    return found


def wait_for_interrupt() -> None:
    """Sleep until Ctrl+C or SIGTERM raises. Woken now and then: a wait without end sees no signals on Windows."""
    never = threading.Event()
    while not never.wait(3600.0):
        pass
