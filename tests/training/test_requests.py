"""What people may ask of a running training: snapshots, going back, another learning rate; served between steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from nerfstudio_ext.progress import TrainRequest, TrainStatus
from nerfstudio_ext.renderer import Renderer
from nerfstudio_ext.training.checkpoints import list_checkpoints
from nerfstudio_ext.training.config import TrainConfig
from nerfstudio_ext.training.metrics_log import read_metrics
from nerfstudio_ext.training.trainer import Trainer
from tests.training.tiny import tiny_trainer


def everything(trainer: Trainer) -> dict[str, torch.Tensor]:
    """All tensors of a trainer, for bitwise comparison."""
    state = trainer.stepper.capture()
    return {**{f"weights/{name}": tensor for name, tensor in state.weights.items()}, **state.trainer}


@dataclass
class Steering:
    """A watcher who asks for things at certain steps.

    Attributes:
        plan: Step -> what is asked then.
        seen: State of the trainer when each answer came: (step, answer, everything).
    """

    plan: dict[int, TrainRequest]
    rate: Callable[[int], float] = lambda step: 1.0
    step: int = 0
    is_waiting: bool = False
    trainer: Trainer | None = None
    seen: list[tuple[int, str, dict[str, torch.Tensor]]] = field(default_factory=list)
    steps: tuple[int, ...] = ()

    def is_paused(self) -> bool:
        return self.is_waiting and bool(self.plan)

    def reserved_threads(self) -> int:
        return 0

    def wants_snapshot(self) -> bool:
        return False

    def publish(self, renderer: Renderer, status: TrainStatus) -> None:
        pass

    def stepped(self, status: TrainStatus) -> None:
        pass

    def has_request(self) -> bool:
        assert self.trainer is not None
        return self.is_waiting or self.trainer.step in self.plan

    def next_request(self) -> TrainRequest | None:
        assert self.trainer is not None
        return self.plan.pop(self.trainer.step, None)

    def answered(self, text: str, snapshots: tuple[int, ...]) -> None:
        assert self.trainer is not None
        self.seen.append((self.trainer.step, text, everything(self.trainer)))
        self.steps = snapshots

    def lr_factor(self) -> float:
        assert self.trainer is not None
        return self.rate(self.trainer.step)


def steered(folder: Path, steering: Steering, **config: int) -> Trainer:
    settings = {"max_steps": 60, "steps_per_save": 10, "steps_per_log": 5} | config
    trainer, _ = tiny_trainer(folder, TrainConfig(**settings), watcher=steering)  # type: ignore[arg-type]
    steering.trainer = trainer
    trainer.train()
    return trainer


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_reset_begins_anew_and_ends_like_an_undisturbed_run(tmp_path: Path) -> None:
    steering = Steering({30: TrainRequest("reset")})
    trainer = steered(tmp_path / "a", steering)
    plain = steered(tmp_path / "b", Steering({}))
    ((step, text, _),) = steering.seen
    assert step == 0 and "anew" in text
    assert same(everything(trainer), everything(plain)), "every weight, moment and random state"
    lines = read_metrics(trainer.run.metrics)
    assert [line["step"] for line in lines] == list(range(5, 61, 5)), "no line is there twice"
    assert max(s for s, _ in list_checkpoints(trainer.run.checkpoints)) == 60


def test_a_snapshot_is_gone_on_from_bit_by_bit(tmp_path: Path) -> None:
    steering = Steering({20: TrainRequest("save"), 45: TrainRequest("load", 20)})
    trainer = steered(tmp_path / "a", steering)
    saved, loaded = steering.seen
    assert saved[0] == loaded[0] == 20 and steering.steps == (20,) and same(saved[2], loaded[2])
    assert same(everything(trainer), everything(steered(tmp_path / "b", Steering({}))))
    assert [s for s, _ in list_checkpoints(trainer.run.path / "snapshots")] == [20]


def test_later_checkpoints_do_not_survive_going_back(tmp_path: Path) -> None:
    steering = Steering({40: TrainRequest("reset"), 15: TrainRequest("save")})
    found: list[list[int]] = []
    answered = steering.answered

    def look(text: str, snapshots: tuple[int, ...]) -> None:
        assert steering.trainer is not None
        found.append([s for s, _ in list_checkpoints(steering.trainer.run.checkpoints)])
        answered(text, snapshots)

    steering.answered = look  # type: ignore[method-assign]
    steered(tmp_path, steering)
    assert found == [[10], []], "or opening the run would show what was given up"


@pytest.mark.parametrize("request_", [TrainRequest("load"), TrainRequest("load", 7)])
def test_what_cannot_be_done_is_said_and_changes_nothing(tmp_path: Path, request_: TrainRequest) -> None:
    steering = Steering({30: request_})
    trainer = steered(tmp_path / "a", steering)
    assert steering.seen[0][0] == 30 and steering.seen[0][1].startswith("Not done")
    assert same(everything(trainer), everything(steered(tmp_path / "b", Steering({}))))


def test_a_learning_rate_of_nothing_changes_nothing(tmp_path: Path) -> None:
    steering = Steering({30: TrainRequest("save")}, rate=lambda step: 0.0)
    trainer = steered(tmp_path, steering)
    assert trainer.snapshots.steps() == (30,) and trainer.stepper.rate == 0.0
    before = steering.seen[0][2]
    for name, parameter in trainer.method.named_parameters():  # type: ignore[attr-defined]
        assert torch.equal(before[f"weights/{name}"], parameter)


def test_requests_are_served_while_paused(tmp_path: Path) -> None:
    steering = Steering({0: TrainRequest("save")}, is_waiting=True)
    trainer = steered(tmp_path, steering)
    assert steering.seen[0][0] == 0 and trainer.step == 60
