"""What each of two processes of a team does in the tests; started by `test_team.py`, never collected by pytest.

Usage:
    python -m tests.cluster.two_processes FOLDER SCENARIO...
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from nerfstudio_ext import methods
from nerfstudio_ext.cli.following import _obey
from nerfstudio_ext.training import gradients
from nerfstudio_ext.training.config import RunConfig, TrainConfig
from nerfstudio_ext.training.guard import StepGuard
from nerfstudio_ext.training.runs import Run
from nerfstudio_ext.training.stepper import Stepper
from nerfstudio_ext.training.team import Team, joined
from nerfstudio_ext.training.trainer import Trainer, batches_of
from tests.cluster.ball import METHOD, STEPS, TRAIN, ball_scene
from tests.training.tiny import RecordingProgress


def train_together(team: Team, folder: Path, config: TrainConfig = TRAIN, spoiled: range = range(0)) -> None:
    """Train in `folder`, going on with the run that is there; every process writes the state it ends with.

    Args:
        team: The processes.
        folder: Where the leader's run and the states go.
        config: Settings of the loop.
        spoiled: Steps in which the second process alone finds a loss that is no number.
    """
    scene = ball_scene()
    method = methods.build(METHOD, scene.meta, seed=5)
    honest = method.train_step

    def train_step(rays, batch, step):  # type: ignore[no-untyped-def]
        losses = honest(rays, batch, step)
        if step in spoiled and not team.is_leading:
            losses["color"] = losses["color"] * torch.nan
        return losses

    method.train_step = train_step
    if team.is_leading:
        earlier = sorted(folder.glob("tiny-scene/ngp/*"))
        run = Run.open(earlier[-1]) if earlier else Run.create(folder, RunConfig(METHOD, config), scene.meta)
        with run:
            trainer = Trainer(method, scene, config, run, None, RecordingProgress(), team=team)
            if earlier:
                trainer.resume()
            result = trainer.train()
            assert result.exit_code == 0
            stepper = trainer.stepper
    else:
        guard = StepGuard(config.bad_steps_before_rollback)
        sampler = batches_of(method, scene, 5)
        stepper = Stepper(method, sampler, guard, config.max_rollbacks, lambda _: None, team)
        _obey(team, stepper)
    state = stepper.capture()
    save_file({**state.weights, **state.trainer}, folder / f"process{team.index}.safetensors")


def main(folder: Path, scenarios: list[str]) -> None:
    """Play the scenarios one after the other."""
    torch.set_num_threads(1)
    with joined() as team:
        assert team is not None and team.count == 2 and team.is_one_host
        for name in scenarios:
            own = folder / name
            own.mkdir(exist_ok=True)
            if name == "shared":
                train_together(team, own)
            elif name == "sent":
                team.is_one_host = False  # as if on two machines
                train_together(team, own)
                team.is_one_host = True
            elif name == "resumed":
                train_together(team, own)
            elif name == "spoiled":
                config = dataclasses.replace(TRAIN, max_steps=STEPS // 2, bad_steps_before_rollback=3)
                train_together(team, own, config, range(10, 15))
        left = list(gradients._SHARED_FOLDER.glob("nsx-gradients-*"))
        assert not left, left


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
