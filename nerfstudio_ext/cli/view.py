"""`nsx view`: walk through a finished run in the browser. Needs neither the photos nor a GPU."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import tyro

from .console import Output
from .options import CommonOptions, ViewerOptions, one_of


@dataclass(frozen=True)
class ViewOptions(ViewerOptions, CommonOptions):
    """Options of `nsx view`."""

    run: tyro.conf.Positional[Path | None] = None
    """Run folder, or a folder that holds runs: the newest is taken."""

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
    from ..viewer import ViewerServer
    from ..viewer.provenance import provenance_panel
    from .paths import up_of
    from .thumbnails import read_thumbnails
    from .view_marks import comparison_of, verifier_of

    opened = open_run(source, checkpoint=options.checkpoint)
    meta = opened.meta
    viewer = ViewerServer(
        meta.training_cameras().select(list(meta.split.train)),
        read_thumbnails(meta, opened.path),
        up=up_of(meta),
        host=options.host,
        port=options.port,
        label=meta.name,
        set_threads=set_threads,
        notice=out.say,
    )
    try:
        comparison = comparison_of(opened)
        viewer.add_panel(provenance_panel(verifier_of(opened), comparison))
        viewer.set_renderer(comparison or opened.renderer())
        out.say(f"{opened.path}: {method_name(opened.config.method)}, step {opened.step}, {meta.kind}")
        out.say(f"Viewer: {viewer.url}   (Ctrl+C ends)")
        out.result({"run": opened.path, "step": opened.step, "url": viewer.url})
        wait_for_interrupt()
    finally:
        viewer.close()


def wait_for_interrupt() -> None:
    """Sleep until Ctrl+C or SIGTERM raises. Woken now and then: a wait without end sees no signals on Windows."""
    never = threading.Event()
    while not never.wait(3600.0):
        pass
