"""What can be set about a training run, apart from the method's own settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .. import __version__, methods
from ..errors import UserError
from ..methods.config_json import config_from_data, config_to_data, did_you_mean

DEFAULT_STEPS = 10_000
"""Steps when neither steps nor seconds are given: about ten minutes on two CPU cores."""
CONFIG_SCHEMA = 1


@dataclass(frozen=True)
class TrainConfig:
    """Settings of the training loop; the same for every method."""

    max_steps: int | None = None
    """Stop after this many steps. Default: 10000, or no limit when --max-train-seconds is given."""

    max_train_seconds: float | None = None
    """Stop after this much training time (loading, compiling and evaluation not counted)."""

    seed: int = 0
    """Seeds every random choice of the run."""

    steps_per_save: int = 1000
    """Steps between checkpoints; the newest two are kept."""

    steps_per_log: int = 20
    """Steps that one line of metrics.jsonl averages."""

    steps_per_eval: int = 0
    """Steps between looks at the test images while training; 0 looks only at the end."""

    bad_steps_before_rollback: int = 5
    """So many unusable steps in a row (NaN, or a loss that exploded) take training back to the last good state."""

    max_rollbacks: int = 3
    """Give up after so many returns to the last good state."""

    def __post_init__(self) -> None:
        positive = ("max_steps", "max_train_seconds", "steps_per_save", "steps_per_log", "bad_steps_before_rollback")
        for name in positive:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(
                    f"{value} is not positive", where=f"--{name.replace('_', '-')}", fix="Give a number above 0"
                )
        if self.steps_per_eval < 0 or self.max_rollbacks < 0:
            raise UserError(
                "negative values have no meaning", where="--steps-per-eval, --max-rollbacks", fix="Give 0 or more"
            )

    @property
    def step_limit(self) -> int | None:
        """Where training ends by steps; None when only time bounds it."""
        if self.max_steps is None and self.max_train_seconds is None:
            return DEFAULT_STEPS
        return self.max_steps


@dataclass(frozen=True)
class SceneSource:
    """Where a run's capture came from and how it was read, so that resuming reads it in the same way."""

    path: str = ""
    """Absolute path of the posed capture."""

    downscale: float | None = None
    """Reduction of the images' width and height."""

    max_side: int | None = None
    """Images are reduced until their longer side is at most this."""

    split_every: int = 8
    """Every how many images one is held out, when the capture has no split of its own."""


@dataclass(frozen=True)
class RunConfig:
    """Everything in a run's config.json.

    Attributes:
        method: The method's own config.
        train: Settings of the loop.
        source: The capture.
        version: Version of this program that began the run.
        changes: What later sessions changed, one line each.
    """

    method: Any
    train: TrainConfig = field(default_factory=TrainConfig)
    source: SceneSource = field(default_factory=SceneSource)
    version: str = __version__
    changes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "schema": CONFIG_SCHEMA,
            "version": self.version,
            "method": methods.config_to_json(self.method),
            "train": config_to_data(self.train),
            "source": config_to_data(self.source),
            "changes": list(self.changes),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any], *, where: str) -> RunConfig:
        """Read what `to_json` wrote.

        Raises:
            UserError: for a newer schema, an unknown or missing key, or a wrong type.
        """
        keys = {"schema", "version", "method", "train", "source", "changes"}
        if data.get("schema") != CONFIG_SCHEMA:
            raise UserError(
                f"schema {data.get('schema')!r}; this version reads {CONFIG_SCHEMA}",
                where=where,
                fix="Upgrade nerfstudio-ext",
            )
        for key in data:
            if key not in keys:
                raise UserError(f"unknown key '{key}'", where=where, fix=did_you_mean(key, keys))
        changes = data.get("changes", [])
        if not isinstance(changes, list) or not all(isinstance(line, str) for line in changes):
            raise UserError("'changes' is not a list of lines", where=where, fix="Restore the run's config.json")
        return cls(
            method=methods.config_from_json(data.get("method"), where=f"{where}: method"),
            train=config_from_data(TrainConfig, data.get("train", {}), where=f"{where}: train"),
            source=config_from_data(SceneSource, data.get("source", {}), where=f"{where}: source"),
            version=str(data.get("version", "")),
            changes=tuple(changes),
        )
