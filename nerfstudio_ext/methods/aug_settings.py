"""Settings of adversarially augmented training, and how the lists among them become one entry per disturbance."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal, TypeVar, cast

from ..errors import UserError
from .aug_balls import Norm
from .config_json import did_you_mean
from .ngp import NgpConfig

T = TypeVar("T", int, float, str)

KEYS = ("pose", "depth", "points", "features", "raw", "rgb", "weights")
"""What can be disturbed: cameras, distances along rays, sample positions, the hidden (or encoded) vector, raw colour
and density, rendered colour, and the networks' weights."""
ADVERSARIES = ("worst", "friendly", "random")
ATTACK_KEYS = "pose,depth,points,features,raw"
"""What is attacked where the stability of a scene is measured, and disturbed as published."""
DEFAULT_KEYS = {"mlp": ATTACK_KEYS, "hash": ""}
"""What is disturbed by default. On the fast field a worst case costs more on clean photos than it gives on bad ones
within minutes of training (docs/results.md), so only friends work there: corrected cameras, a patient colour loss."""
DEFAULT_START = {"mlp": (0, 1), "hash": (100, 6)}
"""First step with an adversary, and every how many steps there is one from there on."""
DEFAULT_CORRECTION = {"mlp": 0.0, "hash": 1.0}
DEFAULT_RADII = {
    "mlp": {"pose": 0.1, "depth": 0.5, "points": 0.5, "features": 0.01, "raw": 0.05, "rgb": 0.02},
    "hash": {"pose": 0.1, "depth": 0.5, "points": 0.5, "features": 0.2, "raw": 0.2, "rgb": 0.02},
}
"""Radius of each ball in its own unit, by field; see `AugConfig.radii`."""


@dataclass(frozen=True)
class MlpConfig:
    """Settings of the paper's coarse and fine networks; the paper itself trains 512 wide, 1024 rays, 500000 steps."""

    width: int = 128
    """Width of the layers: 128 trains on two CPU cores; the released code uses 512."""
    coarse_samples: int = 48
    """Samples along every ray."""
    fine_samples: int = 48
    """Samples added where the coarse network saw something; 0 trains one network only."""
    rays_per_batch: int = 512
    """Rays of a training batch."""
    mlp_lr: float = 5e-4
    """Learning rate at the start."""
    mlp_lr_decades: float = 2.0
    """Decades it falls by: 2, as in 500000 steps of the paper's schedule."""
    raw_noise: float = 0.0
    """Standard deviation of noise on the raw density while training; the paper uses 1 for forward-facing photos."""


@dataclass(frozen=True)
class AugConfig:
    """Settings of adversarially augmented training."""

    field: Literal["mlp", "hash"] = "mlp"
    """What is trained: mlp, the paper's coarse and fine networks, or hash, the fast field (far quicker on a CPU)."""
    mode: Literal["shared", "official"] = "shared"
    """Which weights the adversarial loss reaches: shared, those that are rendered, as the paper describes; official,
    a third network of its own with all faults of the released code, for comparison (mlp only)."""
    keys: str | None = None
    """What is disturbed, of: pose, depth, points, features, raw, rgb, weights. By default the first five for mlp, as
    published, and none for hash, where `correct_poses` and `patient_huber` do the work."""
    radii: str | None = None
    """One radius for all keys or one per key. pose: degrees, and hundredths of a scene unit; depth: half sample
    spacings; points: half sample spacings, or pixels (mlp) or finest cells (hash) where these are smaller; features:
    absolute (mlp) or typical feature values (hash); raw: logits; rgb: colour 0..1. Not used for weights."""
    step_sizes: str = "1"
    """Length of an ascent step, one or one per key, in radii (mode official: absolute)."""
    iterations: str = "1"
    """Ascent steps, one number or one per key; 0 leaves a key at its random start."""
    norms: str = "linf"
    """Ball of each key, linf or l2, one or one per key."""
    adversary: str = "worst"
    """worst raises the loss, friendly lowers it, random stays where it starts; one or one per key."""
    mix: float = 0.5
    """Share of the adversarial loss (lambda); 0 is plain training, bit for bit."""
    adversary_from: int | None = None
    """Training step from which on there is an adversary. By default 0 for mlp, 100 for hash."""
    adversary_every: int | None = None
    """From there on, every so many steps have one; the others are plain and cost less than half. By default every one
    for mlp, every sixth for hash."""
    correct_poses: float | None = None
    """Largest correction of each training camera, degrees and hundredths of a scene unit: a friendly disturbance that
    is kept from step to step and found in the steps with an adversary; 0: none. By default 1 for hash, 0 for mlp."""
    patient_huber: float = 0.02
    """Where the colour loss turns from squared to linear while more than 8 % of the rays are off by more than 0.3, as
    with noisy photos; 0: no change. The Huber loss is what remains when a friend may change each rendered colour at
    a price: this is a cheaper friend (hash only)."""
    weight_strength: float = 0.01
    """Length of the disturbance of the weights, relative to each weight (key weights)."""
    mlp: MlpConfig = dataclasses.field(default_factory=MlpConfig)
    """The paper's networks."""
    hash: NgpConfig = dataclasses.field(default_factory=NgpConfig)
    """The fast field; `near` and `background` count for both fields."""

    def __post_init__(self) -> None:
        plans(self)
        if not 0 <= self.mix <= 1:
            raise UserError(f"{self.mix} is not between 0 and 1", where="--mix", fix="Give a number within")
        first, every = adversary_steps(self)
        if first < 0 or every < 1:
            raise UserError(
                "steps count from 0, every 1 or more",
                where="--adversary-from, --adversary-every",
                fix="Give whole numbers from there",
            )
        for flag, value in (("--correct-poses", self.correct_poses or 0.0), ("--patient-huber", self.patient_huber)):
            if not 0 <= value < math.inf:
                raise UserError(f"{value} is out of range", where=flag, fix="Use 0 or more")
        if self.mode == "official" and self.correct_poses:
            raise UserError("the released code corrects no poses", where="--correct-poses", fix="Use --mode shared")
        if self.mode == "official" and self.field == "hash":
            raise UserError("the released code has no hash field", where="--mode official", fix="Use --mode shared")


@dataclass(frozen=True)
class KeyPlan:
    """How one key is disturbed: radius and step in the key's unit, number of steps, norm, up or down the loss."""

    radius: float
    step: float
    iterations: int
    norm: Norm
    is_friendly: bool


def plans(config: AugConfig) -> dict[str, KeyPlan]:
    """One plan per key, in the order given; "weights" is not among them.

    Raises:
        UserError: for an unknown key, a list of the wrong length, or a number that makes no sense.
    """
    keys = key_names(config)
    n = len(keys)
    radii = [DEFAULT_RADII[config.field].get(key, 0.0) for key in keys]
    if config.radii is not None:
        radii = _spread("--radii", config.radii, float, n)
    steps = _spread("--step-sizes", config.step_sizes, float, n)
    iterations = _spread("--iterations", config.iterations, int, n)
    norms = _spread("--norms", config.norms, str, n)
    for name, values in (("--radii", radii), ("--step-sizes", steps), ("--iterations", iterations)):
        if any(not 0 <= value < 1e6 for value in values):
            raise UserError(f"{min(values)}..{max(values)} is out of range", where=name, fix="Use numbers from 0 up")
    for norm in norms:
        if norm not in ("linf", "l2"):
            raise UserError(f"'{norm}' is no norm", where="--norms", fix="Use linf or l2")
    kinds = _spread("--adversary", config.adversary, str, n)
    for kind in kinds:
        if kind not in ADVERSARIES:
            raise UserError(f"'{kind}' is no adversary", where="--adversary", fix=did_you_mean(kind, ADVERSARIES))
    is_absolute = config.mode == "official"
    found = {}
    for key, radius, step, count, norm, kind in zip(keys, radii, steps, iterations, norms, kinds, strict=True):
        length = step if is_absolute else step * radius
        n_steps = 0 if kind == "random" else count
        found[key] = KeyPlan(radius, length, n_steps, cast(Norm, norm), kind == "friendly")
    return {key: plan for key, plan in found.items() if key != "weights"}


def key_names(config: AugConfig) -> list[str]:
    """The keys of the config, checked."""
    text = DEFAULT_KEYS[config.field] if config.keys is None else config.keys
    keys = [key.strip() for key in text.split(",") if key.strip()]
    for key in keys:
        if key not in KEYS:
            raise UserError(f"'{key}' cannot be disturbed", where="--keys", fix=did_you_mean(key, KEYS))
    if len(set(keys)) != len(keys):
        raise UserError(f"'{text}' names a key twice", where="--keys", fix="Name each once")
    return keys


def adversary_steps(config: AugConfig) -> tuple[int, int]:
    """First step with an adversary, and every how many steps there is one."""
    first, every = DEFAULT_START[config.field]
    first = first if config.adversary_from is None else config.adversary_from
    return first, every if config.adversary_every is None else config.adversary_every


def correction_radius(config: AugConfig) -> float:
    """How far cameras are corrected, degrees and hundredths of a scene unit; 0: not at all."""
    if config.mix == 0:
        return 0.0
    return DEFAULT_CORRECTION[config.field] if config.correct_poses is None else config.correct_poses


def disturbs(config: AugConfig, step: int) -> bool:
    """Whether there is an adversary, or a friend that corrects cameras, in a training step."""
    first, every = adversary_steps(config)
    is_wanted = bool(key_names(config)) or correction_radius(config) > 0
    return config.mix > 0 and is_wanted and step >= first and (step - first) % every == 0


def _spread(flag: str, text: str, kind: type[T], n: int) -> list[T]:
    """A list of one value or n values, as n values."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    try:
        values = [kind(word) for word in words]
    except ValueError:
        raise UserError(f"'{text}' is not a list of numbers", where=flag, fix="Write it as 0.5 or 0.5,1,2") from None
    if len(values) == 1:
        return values * n
    if len(values) != n:
        raise UserError(f"{len(values)} values for {n} keys", where=flag, fix="Give one value, or one per key")
    return values
