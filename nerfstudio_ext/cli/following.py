"""`nsx train` in the other processes of a team: no run folder, no viewer, no words; only their part of every batch."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError

if TYPE_CHECKING:
    from ..methods.protocol import Method
    from ..scenes.model import SceneMeta
    from ..training.config import RunConfig
    from ..training.stepper import Stepper
    from ..training.team import Team

_SCENE, _POINTS = "scene.json", "points.npy"


def brief(team: Team, config: RunConfig, meta: SceneMeta, method: Method) -> None:
    """Tell the other processes what is trained, and on what.

    Raises:
        UserError: if the method cannot be trained by several processes.
    """
    from ..methods import method_name
    from ..methods.protocol import CanShare
    from ..scenes.scene_json import scene_to_json
    from ..training.team import Order

    if not isinstance(method, CanShare):
        raise UserError(
            f"{method_name(config.method)} trains in one process only",
            where="torchrun",
            fix="Start it without torchrun, or train ngp",
        )
    device = next(iter(method.parameters())).device.type
    scene, points = scene_to_json(meta, _POINTS)
    team.tell(Order("wait"))
    for content in (json.dumps({"config": config.to_json(), "device": device}).encode(), scene, points or b""):
        team.send(content)


def follow(team: Team) -> int:
    """Work for the first process until it says that it is enough; returns the exit code."""
    from ..errors import TrainingFailed
    from ..training.signals import StopOnSignal
    from ..training.team import TeamBroken

    def wish_to_stop(_signal: str) -> None:
        team.wishes_to_stop = True

    with StopOnSignal(wish_to_stop):
        if team.hear().kind == "stop":
            return 0
        stepper = _stepper(team)
        try:
            _obey(team, stepper)
        except TeamBroken:
            raise
        except TrainingFailed:
            return 1  # the first process fails in the same step, and says why
    return 0


def _stepper(team: Team) -> Stepper:
    """What `brief` tells, built as the first process has it."""
    from .. import methods
    from ..progress import SilentProgress
    from ..scenes.scene_json import read_scene_json
    from ..training.config import RunConfig
    from ..training.guard import StepGuard
    from ..training.stepper import Stepper
    from ..training.trainer import batches_of
    from .evaluate import scene_of_run

    told = json.loads(team.receive())
    with tempfile.TemporaryDirectory(prefix="nsx-") as folder:
        for name in (_SCENE, _POINTS):
            (Path(folder) / name).write_bytes(team.receive())
        meta = read_scene_json(Path(folder) / _SCENE)
    config = RunConfig.from_json(told["config"], where="the first process")
    scene = scene_of_run(config.source, meta, SilentProgress())
    method = methods.build(config.method, meta, seed=config.train.seed, device=told["device"])
    guard = StepGuard(config.train.bad_steps_before_rollback)
    sampler = batches_of(method, scene, config.train.seed)
    return Stepper(method, sampler, guard, config.train.max_rollbacks, lambda _: None, team)


def _obey(team: Team, stepper: Stepper) -> None:
    while (order := team.hear()).kind != "stop":
        if order.kind == "state":
            stepper.restore(team.receive_state(), where=Path())
        elif order.kind == "warm up":
            stepper.warm_up(order.step)
        elif order.kind == "step":
            stepper.user_rate = order.rate
            stepper.step(order.step, order.progress)
