"""Settings of lifting: one photo to an object. The paper's and ours, as presets of the same numbers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from ..errors import UserError
from .lift_distillation import NoiseRange, Weighting
from .ngp import NgpConfig
from .priors import PriorSettings

Preset = Literal["modern", "paper"]


@dataclass(frozen=True)
class LiftWeights:
    """Weights of the losses; 0 switches one off and saves its time."""

    photo: float = 10.0
    """Colours of the photo."""
    mask: float = 5.0
    """Opacity at the front like the mask."""
    leak: float = 0.0
    """Opacity outside the mask."""
    ranking: float = 0.5
    """Order of depths at the front."""
    pearson: float = 0.1
    """Correlation of depths at the front."""
    distillation: float = 8.0
    """The prior's pull on all other views."""
    clip: float = 0.0
    """Pull of the denoised views towards the photo's CLIP embedding."""
    clip_image: float = 0.0
    """Pull of rendered views of the front sector towards it."""
    opacity: float = 0.0
    """Squared opacity."""
    entropy: float = 0.05
    """Pixels neither empty nor full."""
    orientation: float = 0.01
    """Surfaces that look away."""
    distortion: float = 0.5
    """Weights of a ray spread along it; ten times at the front in the paper."""
    smoothness: float = 0.05
    """Slopes of the depth."""


PAPER_WEIGHTS = LiftWeights(
    photo=40.0, mask=0.0, leak=1.0, ranking=10.0, pearson=0.0, distillation=1.0, clip=50.0, clip_image=1.0,
    opacity=1e-3, entropy=0.0, orientation=10.0, distortion=0.1, smoothness=1.0,
)  # fmt: skip
WEIGHTS: dict[Preset, LiftWeights] = {"modern": LiftWeights(), "paper": PAPER_WEIGHTS}
NOISE: dict[Preset, NoiseRange] = {
    "modern": NoiseRange(low=(0.9, 0.05), high=(0.98, 0.48)),
    "paper": NoiseRange(low=(0.95, 0.05), high=(0.95, 0.95), until=1 / 3),
}
"""Noisy first. The paper lowers only the lower end, in the first third; ours lowers both all the time."""
WEIGHTINGS: dict[Preset, Weighting] = {"modern": "clean", "paper": "paper"}
STEPS: dict[Preset, int] = {"modern": 300, "paper": 10_000}


def _small_field() -> NgpConfig:
    return NgpConfig(
        n_levels=4, log2_table=16, base_resolution=6, finest_resolution=36, hidden=32, color_hidden=16, grid_size=32,
        steps_per_unit=64,
    )  # fmt: skip


@dataclass(frozen=True)
class LiftConfig:
    """Settings of lifting one photo."""

    preset: Preset = "modern"
    """Losses, their weights and noise levels: ours, or those of the paper."""
    steps: int | None = None
    """Length of the schedule: 300, or 10000 with the paper's preset."""
    side: int = 32
    """Side of the pictures rendered while training, pixels; 64 and more for priors that have seen the world."""
    views: int = 4
    """Views per step beside the photo's, at least one; the paper has one or the other."""
    prior: str = "tiny"
    """What knows the unseen sides: tiny, sd, view, empirical, null."""
    prior_model: str = ""
    """Hub id, local folder or file of the prior's weights; default: the prior's own."""
    prior_revision: str = ""
    """Revision of a hub model."""
    offline: bool = False
    """Look for models on this machine only."""
    half_precision: bool = True
    """Keep weights of hub models in 16 bits."""
    low_memory: bool = False
    """Trade time for memory."""
    embedding: str = ""
    """File of a word learned for Stable Diffusion."""
    clip_model: str = ""
    """Hub id or folder of the CLIP model that guides; none by default."""
    text: str = ""
    """What the photo shows; default: the prepared photo's own."""
    class_name: str = ""
    """Kind of thing, for priors that know classes; default: the prepared photo's own."""
    guidance: float | None = None
    """Strength of classifier-free guidance; default: what suits the prior."""
    weights: LiftWeights | None = None
    """Weights of the losses; default: those of the preset."""
    elevations: tuple[float, float] = (-10.0, 60.0)
    """Heights of random cameras above the horizon, degrees."""
    distances: tuple[float, float] = (1.6, 2.0)
    """Their distances from the centre, scene units; the paper has cameras inside the box, where fog pays."""
    fovs: tuple[float, float] = (36.0, 44.0)
    """Their vertical fields of view, degrees."""
    pairs: int = 8192
    """Pairs of pixels whose depths are compared per step."""
    normals: int = 1024
    """Samples whose normals are looked at per step."""
    lr: float = 3e-2
    """Learning rate of the grid, half of it that of the networks; falls to a tenth in the last 40 % of the schedule."""
    hash: NgpConfig = field(default_factory=_small_field)
    """The field and its kernels; its losses and learning rate are not used."""

    def __post_init__(self) -> None:
        if self.views < 1 or self.side < 8 or (self.steps is not None and self.steps < 1):
            raise UserError("fewer than 1 view, 8 pixels or 1 step", where="--views, --side, --steps", fix="Give more")
        for name in ("elevations", "distances", "fovs"):
            low, high = getattr(self, name)
            if low > high:
                raise UserError(
                    f"{low:g} to {high:g} runs backwards", where=f"--{name}", fix="Give the lower number first"
                )

    def settled(self) -> LiftConfig:
        """The same with everything written out that the preset decides."""
        return dataclasses.replace(self, weights=self.loss_weights, steps=self.schedule_steps)

    @property
    def loss_weights(self) -> LiftWeights:
        """Weights of the losses."""
        return self.weights or WEIGHTS[self.preset]

    @property
    def schedule_steps(self) -> int:
        """Length of the schedule."""
        return self.steps or STEPS[self.preset]

    def prior_settings(self, device: str = "cpu") -> PriorSettings:
        """What the prior is loaded by."""
        return PriorSettings(
            self.prior, self.prior_model, self.prior_revision, self.offline, self.half_precision, self.low_memory,
            device, self.embedding,
        )  # fmt: skip
