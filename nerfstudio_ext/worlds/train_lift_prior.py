"""Training of the small prior for lifting: pictures of drawn things, noise, and a network that takes it away."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import TrainingFailed, UserError
from ..methods.priors.denoiser import CHANNELS, Conditions, DenoiserSize, PoseDenoiser, cosine_alphas
from ..progress import Progress, SilentProgress
from ..training.checkpoints import CheckpointNotSaved, list_checkpoints, load_checkpoint, save_checkpoint
from ..training.optimizer_state import load_optimizer_tensors, optimizer_tensors
from .things import CLASSES, draw_thing, photograph

LOG = "log.jsonl"
VALIDATION_SEED = 1 << 40
"""Things that training never sees are drawn from here, and from the ranges that it leaves out."""
ELEVATIONS_DEG, PHOTO_ELEVATIONS_DEG = (-15.0, 60.0), (5.0, 25.0)
_WARM_UP, _CLIP = 100, 1.0
_DROP_PHOTO, _DROP_CLASS = 0.15, 0.5
"""How often the network has to do without: then it learns both modes, and guidance has something to lead away from."""


@dataclass(frozen=True)
class PriorTraining:
    """Settings of the training of the small prior; the larger size needs a GPU."""

    steps: int = 6_000
    """Steps in all."""
    batch: int = 64
    """Pictures per step."""
    side: int = 16
    """Side of the pictures, pixels."""
    patch: int = 4
    """Side of a patch."""
    width: int = 192
    """Channels of a token; 512, with a side of 64, makes the larger prior."""
    depth: int = 6
    """Layers."""
    n_heads: int = 6
    """Heads of attention."""
    things: int = 5000
    """Things in play."""
    views: int = 4
    """Pictures of each, beside the photo."""
    lr: float = 1.2e-3
    """Peak rate; falls along half a cosine to a fiftieth."""
    ema: float = 0.998
    """How slowly the weights that are kept follow those that are trained."""
    seed: int = 0
    """Of everything random."""
    steps_per_save: int = 500
    """Steps between checkpoints."""
    steps_per_check: int = 500
    """Steps between looks at things that training never sees."""
    shuffle_poses: bool = False
    """Give every picture the azimuth of another one: the prior of a control, which knows no back."""

    def size(self) -> DenoiserSize:
        """Sizes of the network."""
        return DenoiserSize(self.side, self.patch, self.width, self.depth, self.n_heads, len(CLASSES))

    def rate_at(self, step: int) -> float:
        """Factor on the learning rate at a step."""
        falling = 0.51 + 0.49 * math.cos(math.pi * min(1.0, step / self.steps))
        return falling * min(1.0, (step + 1) / _WARM_UP)


@dataclass(frozen=True)
class ThingPictures:
    """Pictures of N things in 8 bits, premultiplied RGBA.

    Attributes:
        photos: [N,4,S,S] from the front.
        photo_elevations: [N] degrees.
        pictures: [N,V,4,S,S] from elsewhere.
        angles: [N,V,2] azimuth and elevation, degrees.
        class_ids: [N].
    """

    photos: Tensor
    photo_elevations: Tensor
    pictures: Tensor
    angles: Tensor
    class_ids: Tensor

    @classmethod
    def draw(
        cls, n: int, n_views: int, side: int, seed: int, *, is_held_out: bool = False, progress: Progress | None = None
    ) -> ThingPictures:
        """Photograph n things, the classes in turn."""
        photos = np.empty((n, CHANNELS, side, side), np.uint8)
        pictures = np.empty((n, n_views, CHANNELS, side, side), np.uint8)
        angles = np.empty((n, n_views, 2), np.float32)
        elevations = np.empty(n, np.float32)
        for i in range(n):
            rng = np.random.default_rng((seed, i))
            thing = draw_thing(rng, CLASSES[i % len(CLASSES)], is_held_out=is_held_out)
            elevations[i] = rng.uniform(*PHOTO_ELEVATIONS_DEG)
            angles[i, :, 0] = rng.uniform(-180, 180, n_views)
            angles[i, :, 1] = rng.uniform(*ELEVATIONS_DEG, n_views)
            photos[i] = _eight_bits(photograph(thing, 0.0, float(elevations[i]), side)[0])
            for j, (azimuth, elevation) in enumerate(angles[i]):
                pictures[i, j] = _eight_bits(photograph(thing, float(azimuth), float(elevation), side)[0])
            if progress is not None and i % 100 == 0:
                progress.advance(i)
        tensors = [torch.from_numpy(array) for array in (photos, elevations, pictures, angles)]
        return cls(tensors[0], tensors[1], tensors[2], tensors[3], torch.arange(n) % len(CLASSES))

    def shuffled(self, generator: torch.Generator) -> ThingPictures:
        """The same pictures, each under the azimuth of another one of its thing's class or not."""
        flat = self.angles.flatten(0, 1).clone()
        flat[:, 0] = flat[torch.randperm(len(flat), generator=generator), 0]
        return ThingPictures(
            self.photos, self.photo_elevations, self.pictures, flat.view_as(self.angles), self.class_ids
        )


def _eight_bits(picture: np.ndarray) -> np.ndarray:
    return np.round(255 * picture).clip(0, 255).astype(np.uint8).transpose(2, 0, 1)


def train_lift_prior(config: PriorTraining, folder: Path, *, progress: Progress | None = None) -> PoseDenoiser:
    """Train, or go on bit by bit where an earlier call with the same folder and settings stopped.

    Args:
        config: Settings.
        folder: Gets `checkpoints/` and `log.jsonl`.
        progress: Told the error and the time left.
    Returns:
        The averaged network.
    Raises:
        UserError: if the folder holds a training of other sizes or another seed.
        TrainingFailed: if the loss is not finite, or a checkpoint cannot be written.
    """
    return _Training(config, folder, progress or SilentProgress()).run()


@dataclass
class _Training:
    config: PriorTraining
    folder: Path
    progress: Progress
    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    error: float = 0.0

    def __post_init__(self) -> None:
        config = self.config
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.generator = torch.Generator().manual_seed(config.seed)
        model = PoseDenoiser(config.size(), self.generator)
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.model = model.to(self.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config.lr, betas=(0.9, 0.98), weight_decay=0.01)
        self.alphas = cosine_alphas()
        self._resume()

    def run(self) -> PoseDenoiser:
        config = self.config
        self.progress.stage("photographing things", config.things)
        data = ThingPictures.draw(config.things, config.views, config.side, config.seed, progress=self.progress)
        if config.shuffle_poses:
            data = data.shuffled(torch.Generator().manual_seed(config.seed))
        held_out = ThingPictures.draw(128, 4, config.side, VALIDATION_SEED, is_held_out=True)
        self.progress.stage("training the prior", config.steps)
        started = time.monotonic() - self.seconds
        while self.step < config.steps:
            self.losses.append(self._train_step(data))
            self.error += (self.losses[-1] - self.error) * max(0.02, 1 / len(self.losses))
            self.step += 1
            self.seconds = time.monotonic() - started
            if self.step % config.steps_per_check == 0 or self.step == config.steps:
                self._log(held_out)
            if self.step % config.steps_per_save == 0 or self.step == config.steps:
                self._save()
            left = self.seconds / self.step * (config.steps - self.step)
            self.progress.advance(self.step, f"error {self.error:.4f}, {left / 60:.0f} min left")
        return self._averaged()

    def _train_step(self, data: ThingPictures) -> float:
        config, generator = self.config, self.generator
        which = torch.randint(len(data.photos), (config.batch,), generator=generator)
        view = torch.randint(data.pictures.shape[1], (config.batch,), generator=generator)
        clean, given = batch_of(data, which, view, generator)
        alphas = self.alphas[torch.randint(len(self.alphas), (config.batch,), generator=generator)]
        noise = torch.randn(clean.shape, generator=generator)
        loss = denoising_loss(self.model, clean, noise, alphas, given, self.device)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if not bool(loss.isfinite()):
            raise TrainingFailed(f"the loss is not finite at step {self.step}; continue from the last checkpoint")
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP)
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr * config.rate_at(self.step)
        self.optimizer.step()
        # Early on the average must not remember the random weights it began with.
        follow = max(1 - config.ema, 1 / (self.step + 10))
        for name, value in self.model.state_dict().items():
            self.average[name].lerp_(value.detach().cpu(), follow)
        return float(loss.detach())

    def _averaged(self) -> PoseDenoiser:
        model = PoseDenoiser(self.config.size())
        model.load_state_dict(self.average)
        return model.eval()

    @torch.no_grad()
    def _log(self, held_out: ThingPictures) -> None:
        """What the network makes of pure noise, on things it never saw: the error of the first guess, in dB."""
        generator = torch.Generator().manual_seed(1)
        which, view = torch.arange(len(held_out.photos)), torch.arange(len(held_out.photos)) % 4
        clean, given = batch_of(held_out, which, view, None)
        found = {}
        for name, step in (("psnr_pure_noise", 999), ("psnr_half", 500)):
            alphas = self.alphas[step].expand(len(clean))
            noise = torch.randn(clean.shape, generator=generator)
            guess = guess_clean(self._averaged(), clean, noise, alphas, given)
            found[name] = -10 * math.log10(float(((guess - clean) / 2).square().mean()))
        line = {
            "step": self.step,
            "seconds": round(self.seconds, 1),
            "loss": sum(self.losses) / len(self.losses),
            **found,
        }
        self.losses = []
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps({k: round(v, 4) for k, v in line.items()}) + "\n")

    def _save(self) -> None:
        trainer = optimizer_tensors(self.optimizer)
        trainer |= {f"average.{name}": value for name, value in self.average.items()}
        trainer |= {
            "generator": self.generator.get_state(),
            "seconds": torch.tensor(self.seconds, dtype=torch.float64),
            "seed": torch.tensor(self.config.seed),
        }
        try:
            save_checkpoint(self.folder / "checkpoints", self.step, self.model.state_dict(), trainer)
        except CheckpointNotSaved as error:
            raise TrainingFailed(str(error)) from error

    def _resume(self) -> None:
        found = list_checkpoints(self.folder / "checkpoints")
        if not found:
            return
        checkpoint = load_checkpoint(found[0][1])
        trainer, own = checkpoint.trainer, self.model.state_dict()
        shapes = {name: tensor.shape for name, tensor in checkpoint.weights.items()}
        if int(trainer["seed"]) != self.config.seed or shapes != {name: tensor.shape for name, tensor in own.items()}:
            raise UserError(
                "the training in it has another seed or other sizes", where=self.folder,
                fix="Use the same settings or another folder",
            )  # fmt: skip
        self.model.load_state_dict(checkpoint.weights)
        load_optimizer_tensors(self.optimizer, trainer)
        for name in self.average:
            self.average[name] = trainer[f"average.{name}"].clone()
        self.generator.set_state(trainer["generator"])
        self.step, self.seconds = checkpoint.step, float(trainer["seconds"])


def batch_of(
    data: ThingPictures, which: Tensor, view: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Conditions]:
    """Latents -1..1 and what is told of them; with a generator, photo and class are left out at times."""
    n = len(which)
    clean = data.pictures[which, view].float() / 127.5 - 1
    photo = data.photos[which].float() / 127.5 - 1
    view_deg = torch.cat([data.angles[which, view], data.photo_elevations[which, None]], 1)
    has_photo, class_ids = torch.ones(n, dtype=torch.bool), torch.full((n,), len(CLASSES))
    if generator is not None:
        has_photo = torch.rand(n, generator=generator) >= _DROP_PHOTO
        has_class = torch.rand(n, generator=generator) >= _DROP_CLASS
        class_ids = torch.where(has_class, data.class_ids[which], class_ids)
    return clean, Conditions(photo * has_photo[:, None, None, None], has_photo, class_ids, view_deg)


def denoising_loss(
    model: PoseDenoiser, clean: Tensor, noise: Tensor, alphas: Tensor, given: Conditions, device: str = "cpu"
) -> Tensor:
    """Mean squared error of the network's v; computed in bfloat16 where the processor does that fast."""
    a = alphas[:, None, None, None]
    noisy = a.sqrt() * clean + (1 - a).sqrt() * noise
    wanted = a.sqrt() * noise - (1 - a).sqrt() * clean
    told = Conditions(
        given.photo.to(device), given.has_photo.to(device), given.class_ids.to(device), given.view_deg.to(device)
    )
    with torch.autocast(device, torch.bfloat16):
        found = model(noisy.to(device), alphas.to(device), told)
    return (found.float() - wanted.to(device)).square().mean()


def guess_clean(model: PoseDenoiser, clean: Tensor, noise: Tensor, alphas: Tensor, given: Conditions) -> Tensor:
    """The network's estimate of clean latents."""
    a = alphas[:, None, None, None]
    noisy = a.sqrt() * clean + (1 - a).sqrt() * noise
    return a.sqrt() * noisy - (1 - a).sqrt() * model(noisy, alphas, given)


def training_notes(config: PriorTraining) -> dict[str, str]:
    """The settings as notes for the file of weights."""
    return {name: str(value) for name, value in asdict(config).items()}
