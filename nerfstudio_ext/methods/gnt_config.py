"""Settings of GNT, and what they come to once a file of weights has been read."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from ..errors import UserError
from ..fields.gnt_weights import Architecture, GntModel, load_gnt
from ..scenes.model import SceneMeta
from .gnt_views import PLANS, SourcePlan

SHIPPED = Path(__file__).with_name("gnt_small.safetensors")
"""Weights that `apps/train_gnt.py` made on computed scenes."""

LR, LR_FEATURES, HALVED_EVERY = 5e-4, 1e-3, 50_000
FINE_LR, FINE_LR_FEATURES, FINE_HALVED_EVERY = 2e-4, 5e-4, 20_000
"""The official settings from scratch, and for going on from trained weights."""
DROPOUT = 0.1
"""The official share. Written weights cannot do without any of their numbers: theirs is 0."""


@dataclass(frozen=True)
class GntConfig:
    """Settings of GNT."""

    weights: Path | None = None
    """Trained weights to begin with (.safetensors, see `nsx import gnt`). By default the shipped gnt-small; where a
    size below asks for another network, training begins from nothing."""
    from_scratch: bool = False
    """Begin from nothing, at the official sizes where none are given."""
    depth: int | None = None
    """View and ray blocks: 4 for one scene, 8 across scenes. By default that of the weights, or 4."""
    width: int | None = None
    """Channels of a token, a multiple of 16. By default that of the weights, or 64."""
    n_features: int | None = None
    """Channels of the feature maps. By default those of the weights, or 32."""
    feature_width: int | None = None
    """Channels of the feature network's first stage. By default those of the weights, or 64."""
    feature_blocks: tuple[int, int, int] | None = None
    """Residual blocks of its stages. By default those of the weights, or 3 4 6."""
    n_views: int = 10
    """Source pictures behind each rendered one."""
    capture: Literal["auto", "object", "forward", "collected"] = "auto"
    """How sources are chosen: by angle around an object, or by distance; auto takes object for a bounded scene."""
    n_samples: int = 64
    """Samples per ray in training."""
    n_samples_render: int = 64
    """Samples per ray in pictures; the paper evaluates with 192."""
    n_more: int = 0
    """Samples of a second pass where the first one looked; the official settings have none."""
    inverse: bool = True
    """Samples even in 1/distance instead of distance."""
    n_rays: int = 512
    """Rays per step with ten sources; the official 2048 suit a GPU."""
    source_side: int = 400
    """Source pictures are reduced until no side is longer, in pixels."""
    dropout: float | None = None
    """Share of numbers that training drops; by default 0.1, or none when gnt-small goes on."""
    lr: float | None = None
    """Learning rate of the transformer; by default 5e-4, or 2e-4 when trained weights go on."""
    lr_features: float | None = None
    """Learning rate of the feature network; by default 1e-3, or 5e-4 when trained weights go on."""
    halved_every: int | None = None
    """Steps after which the rates halve; by default 50000, or 20000 when trained weights go on."""
    falls: bool | None = None
    """Instead of halving, let the rates rise over 30 steps and fall to a twentieth over the second half of the
    training; by default when gnt-small goes on."""
    half_precision: bool = True
    """Render with 16-bit products where the processor computes them fast; training never does."""
    code_units: Literal["training", "source"] | None = None
    """Unit of length of the positional code: of the training frame, or of the capture. By default that of the weights,
    which for official ones is the capture's."""
    is_settled: bool = False
    """The sizes above are final and the weights lie in the run; set by the program."""
    backend: str = "auto"
    """Kernel back end: auto, reference, cpu or cuda."""

    def __post_init__(self) -> None:
        least = {
            "n_views": 2, "n_samples": 2, "n_samples_render": 2, "n_more": 0, "n_rays": 1, "source_side": 32,
            "dropout": 0,
        }  # fmt: skip
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                flag = f"--{name.replace('_', '-')}"
                raise UserError(f"{value} is below {low}", where=flag, fix="Choose a larger value")
        if self.weights is not None and self.from_scratch:
            raise UserError("--weights are no beginning from nothing", where="--from-scratch", fix="Give one of both")
        if self.dropout is not None and self.dropout >= 1:
            raise UserError(f"{self.dropout:g} drops everything", where="--dropout", fix="Choose a value below 1")
        if self.width is not None and (self.width % 16 or not 16 <= self.width <= 256):
            raise UserError(f"{self.width} is not 16, 32 ... 256", where="--width", fix="Choose a multiple of 16")

    def settled(self) -> GntConfig:
        """The same settings with every size written out, so that a run opens without the file of weights.

        Raises:
            UserError: if the weights cannot be read or have other sizes than were asked for.
        """
        if self.is_settled:
            return self
        notes: dict[str, str] = {}
        if self._beginning is None:
            sizes = self._sizes(Architecture())
        else:
            model, notes = load_gnt(self._beginning)
            sizes = self._checked(model.architecture)
        has_weights = self._beginning is not None
        is_shipped = self._beginning == SHIPPED
        dropout = 0.0 if is_shipped else DROPOUT
        lr, lr_features, halved = (
            (FINE_LR, FINE_LR_FEATURES, FINE_HALVED_EVERY) if has_weights else (LR, LR_FEATURES, HALVED_EVERY)
        )
        units: Literal["training", "source"] = "source" if notes.get("code_scale") == "source units" else "training"
        return dataclasses.replace(
            self,
            **dataclasses.asdict(sizes),
            lr=lr if self.lr is None else self.lr,
            lr_features=lr_features if self.lr_features is None else self.lr_features,
            dropout=dropout if self.dropout is None else self.dropout,
            falls=is_shipped if self.falls is None else self.falls,
            halved_every=self.halved_every or halved,
            code_units=self.code_units or units,
            is_settled=True,
        )  # fmt: skip

    def model(self, generator: torch.Generator) -> GntModel:
        """The networks: from the file of weights, or drawn; a settled config's are drawn, to be filled from a run.

        Raises:
            UserError: as `settled`.
        """
        if self._beginning is None or self.is_settled:
            return GntModel(self._sizes(Architecture()), generator)
        model, _ = load_gnt(self._beginning)
        self._checked(model.architecture)
        return model

    def plan(self, meta: SceneMeta) -> SourcePlan:
        """How sources are drawn for a capture."""
        kind = self.capture
        if kind == "auto":
            kind = "object" if meta.frame.aabb_scale == 1 else "collected"
        return dataclasses.replace(PLANS[kind], n_views=self.n_views)

    def code_scale(self, meta: SceneMeta) -> float:
        """Factor from the training frame to the unit of the positional code."""
        return 1 / meta.frame.scale if self.code_units == "source" else 1.0

    @property
    def _beginning(self) -> Path | None:
        """The file of weights to begin with, if any."""
        asks_for_sizes = any(getattr(self, field.name) is not None for field in dataclasses.fields(Architecture))
        if self.weights is not None or asks_for_sizes or self.from_scratch:
            return self.weights
        return SHIPPED

    def _sizes(self, default: Architecture) -> Architecture:
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(Architecture)}
        return dataclasses.replace(default, **{name: value for name, value in own.items() if value is not None})

    def _checked(self, found: Architecture) -> Architecture:
        for field in dataclasses.fields(Architecture):
            wanted, has = getattr(self, field.name), getattr(found, field.name)
            if wanted is not None and wanted != has:
                name = field.name.replace("_", "-")
                raise UserError(
                    f"the weights have {field.name.replace('_', ' ')} {has}, --{name} asks for {wanted}",
                    where=self.weights or "", fix=f"Leave --{name} out",
                )  # fmt: skip
        return found
