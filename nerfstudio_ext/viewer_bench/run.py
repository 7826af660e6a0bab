"""`nsx bench viewer`: every target of the viewer, measured on this machine in one run."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ..bench import ball_training
from ..progress import Progress, SilentProgress
from ..renderer import RayRenderer
from ..viewer.scheduler import available_cores
from . import people, pictures, training
from .figures import Figure

TRAINING_SECONDS = 12.0
VISITS = 1000


def bench_viewer(
    progress: Progress | None = None, *, seconds: float = TRAINING_SECONDS, visits: int = VISITS
) -> dict[str, Any]:
    """Measure V1 to V13 with stand-in browsers on loopback, which share this machine's cores with the server.

    Args:
        progress: Told about every target.
        seconds: How long the small scene is trained before.
        visits: How many browsers come and go for V9.
    Returns:
        `{"schema": 1, "V1": {"value": .., "target": .., "met": true|false, "about": ..}, .., "load": ..}`, `load` being
        the load of the machine before, per core: above one half it was busy with other work and times are upper bounds.
    """
    progress = progress or SilentProgress()
    load = os.getloadavg()[0] / available_cores() if hasattr(os, "getloadavg") else 0.0
    is_loaded = load > 0.5
    progress.stage("training a small scene", None)
    method, step = ball_training(seconds)
    scene = RayRenderer(method.snapshot())
    idle: list[float] = []
    found: dict[str, Figure] = {}
    work: list[tuple[str, Callable[[], Figure | None]]] = [
        ("V1", lambda: idle.extend(pictures.first_new_picture(scene))),  # completed below
        ("V2", lambda: pictures.transport_alone(is_loaded)),
        ("V3", pictures.freshness),
        ("V4", lambda: pictures.sharpness(scene)),
        ("V5", lambda: pictures.cancelling(scene)),
        ("V6", pictures.bytes_sent),
        ("V7", lambda: people.many_browsers(scene)),
        ("V9", lambda: people.faults(visits)),
        ("V10", people.strangers),
        ("V11", lambda: pictures.first_visit(scene)),
        ("V12", pictures.depth_order),
        ("V13", lambda: pictures.one_renderer(scene)),
    ]
    progress.stage("measuring the viewer", len(work) + 1)
    for done, (name, measure) in enumerate(work):
        figure = measure()
        if figure is not None:
            found[name] = figure
        progress.advance(done + 1, name)
    found["V8"], while_training = training.shares(training.Trained(method, step, seconds))
    value = [*idle, while_training]
    met = value[0] <= 60 and value[1] <= 150 and value[2] <= 300
    about = "ms from camera to picture: median and 95th percentile idle, 95th percentile while training"
    found["V1"] = Figure(value, [60, 150, 300], met, about)
    ordered = sorted(found, key=lambda name: int(name[1:]))
    return {"schema": 1, **{name: found[name].to_json() for name in ordered}, "load": round(load, 2)}
