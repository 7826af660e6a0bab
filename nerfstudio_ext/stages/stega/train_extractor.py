"""Training of the public extractor, with no encoder: pictures learn to carry bits while the body learns to read them.

Every picture has a residual, directions and bits of its own. One backward pass through attack and body gives the
gradient of both. An encoder network in place of the residuals learned nothing in the same time (feasibility study).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...errors import TrainingFailed, UserError
from ...progress import Progress, SilentProgress
from ...training.checkpoints import CheckpointNotSaved, list_checkpoints, load_checkpoint, save_checkpoint
from ...training.optimizer_state import load_optimizer_tensors, optimizer_tensors
from .carriers import Carriers
from .curriculum import random_attacks
from .extractor import Extractor
from .keys import FEATURES
from .procedural import photo_crops, procedural_pictures

_MARGIN = 3.0
"""Steepness of the loss `softplus(-3 b z)`: logits have about unit size, a margin of one is wanted."""
_LIFE = (8, 24)
"""Visits after which a batch of pictures retires, drawn evenly."""
_MATURE = 9
"""Visits from which the accuracy of a batch says something about the body."""
_MEAN_EVERY, _MEAN_RATE = 20, 0.1
_MEAN_PARTS, _MEAN_PART = 8, 64


@dataclass(frozen=True)
class ExtractorTraining:
    """Settings of a training; those of the feasibility study, with JPEG in half of the draws."""

    steps: int = 4000
    """Steps in all; a step is one batch through attack and body, forth and back."""
    size: int = 96
    """Side of the pictures in pixels."""
    batch: int = 32
    """Pictures per batch."""
    batches: int = 16
    """Batches in play at a time."""
    bits: int = 64
    """Code bits that each picture carries, of 128 directions."""
    learning_rate: float = 1e-3
    """Of AdamW; constant for half of the steps, then falling to zero."""
    first_psnr: float = 32.0
    """Fidelity budget of the residuals at the start, dB, ..."""
    last_psnr: float = 39.0
    """... and after 60 % of the steps."""
    photo_share: float = 0.25
    """Share of pictures cut from photos, where photos are given."""
    seed: int = 0
    """Of everything random."""
    steps_per_save: int = 250
    """Steps between checkpoints."""
    bfloat16: bool = True
    """Compute the body in 16 bits: twice as fast on processors that can, no faster but harmless on others."""

    def psnr_at(self, step: int) -> float:
        """Fidelity budget at a step, dB."""
        return self.first_psnr + (self.last_psnr - self.first_psnr) * min(1.0, step / (0.6 * self.steps))

    def strength_at(self, step: int) -> float:
        """Strength of the attacks at a step: none for a tenth of the time, full from half of it."""
        return min(1.0, max(0.0, (step / self.steps - 0.1) / 0.4))

    def learning_rate_at(self, step: int) -> float:
        """Learning rate at a step."""
        return self.learning_rate * min(1.0, 2 * (1 - step / self.steps))


@dataclass
class _Batch:
    carriers: Carriers
    directions: Tensor  # [B,bits,F] orthonormal rows
    signs: Tensor  # [B,bits] of -1 and 1
    life: int


def train_extractor(
    config: ExtractorTraining, folder: Path, *, initial: Extractor | None = None, photos: Sequence[Tensor] = (),
    device: str = "cpu", progress: Progress | None = None,
) -> Extractor:  # fmt: skip
    """Train an extractor, or go on where an earlier call with the same folder stopped.

    Args:
        config: Settings. Those of a training that is continued must be the same, but for the number of steps.
        folder: Where checkpoints go; the newest intact one is continued. Residuals are not kept: they regrow in some
            hundred steps.
        initial: What to begin with instead of random weights; it is not changed.
        photos: [3,H,W] 8-bit pictures of which parts are used too.
        device: Where to compute.
        progress: Told the accuracy of the bits and the time left.
    Returns:
        The extractor, its mean feature measured on fresh unmarked pictures.
    Raises:
        UserError: if the newest checkpoint cannot be read.
        TrainingFailed: if the loss is not finite, or a checkpoint cannot be written.
    """
    return _Training(config, folder, initial, photos, device, progress or SilentProgress()).run()


class _Training:
    def __init__(
        self, config: ExtractorTraining, folder: Path, initial: Extractor | None, photos: Sequence[Tensor],
        device: str, progress: Progress,
    ) -> None:  # fmt: skip
        self.config, self.folder, self.photos = config, folder, photos
        self.device, self.progress = torch.device(device), progress
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.extractor = Extractor().to(self.device)
        if initial is not None:
            self.extractor.load_state_dict(initial.state_dict())
        self.optimizer = torch.optim.AdamW(self.extractor.parameters(), config.learning_rate, weight_decay=1e-3)
        self.step, self.seconds, self.accuracy = 0, 0.0, 0.5
        self._resume()
        # Another stretch of random numbers after each resumption: the same pictures again would be seen twice.
        self.generator = torch.Generator().manual_seed(config.seed + 7919 * self.step)
        self.in_play: list[_Batch] = []

    def run(self) -> Extractor:
        config = self.config
        self.progress.stage("training the extractor", config.steps)
        started = time.monotonic() - self.seconds
        while self.step < config.steps:
            self._train_step()
            self.step += 1
            self.seconds = time.monotonic() - started
            if self.step % config.steps_per_save == 0 or self.step == config.steps:
                self._save()
            pace = self.seconds / self.step
            left = pace * (config.steps - self.step)
            self.progress.advance(self.step, f"{self.accuracy:.1%} of the bits, {left / 60:.1f} min left")
        self._measure_mean()
        return self.extractor.cpu().eval()

    def _train_step(self) -> None:
        config, extractor = self.config, self.extractor
        batch = self._next_batch()
        psnr = config.psnr_at(self.step)
        marked = batch.carriers.marked()
        attacked = random_attacks(marked, config.strength_at(self.step), self.generator)
        with self._precision():
            features = extractor(attacked)
        logits = torch.einsum("bnf,bf->bn", batch.directions, features)
        loss = functional.softplus(-_MARGIN * batch.signs * logits).mean()
        extractor.zero_grad(set_to_none=True)
        loss.backward()
        if not bool(loss.isfinite()):
            raise TrainingFailed(f"the loss is not finite at step {self.step}; continue from the last checkpoint")
        # On its first visit a picture carries nothing yet: the body would learn from noise.
        if batch.carriers.visits > 0:
            for group in self.optimizer.param_groups:
                group["lr"] = config.learning_rate_at(self.step)
            nn.utils.clip_grad_norm_(extractor.parameters(), 1.0)
            self.optimizer.step()
        if batch.carriers.visits >= _MATURE:
            right = float((logits * batch.signs > 0).float().mean())
            self.accuracy += 0.05 * (right - self.accuracy)
        assert marked.grad is not None
        batch.carriers.update(marked.grad, psnr)
        if self.step % _MEAN_EVERY == 0:
            self._follow_mean(batch.carriers.pictures)

    def _next_batch(self) -> _Batch:
        config = self.config
        if len(self.in_play) < config.batches:
            self.in_play.append(self._new_batch())
            return self.in_play[-1]
        index = int(torch.randint(config.batches, (1,), generator=self.generator))
        if self.in_play[index].carriers.visits >= self.in_play[index].life:
            self.in_play[index] = self._new_batch()
        return self.in_play[index]

    def _new_batch(self) -> _Batch:
        config, generator = self.config, self.generator
        n_photos = round(config.photo_share * config.batch) if self.photos else 0
        pictures = procedural_pictures(config.batch - n_photos, config.size, generator)
        if n_photos:
            pictures = torch.cat([pictures, photo_crops(self.photos, n_photos, config.size, generator)])
        random = torch.randn(config.batch, FEATURES, config.bits, generator=generator)
        directions = torch.linalg.qr(random).Q.transpose(1, 2).contiguous()
        signs = 2.0 * torch.randint(0, 2, (config.batch, config.bits), generator=generator) - 1
        life = int(torch.randint(_LIFE[0], _LIFE[1] + 1, (1,), generator=generator))
        # 8 bits first: a picture comes from a file, and the residual is all that is not in it.
        pictures = (pictures * 255).round() / 255
        moved = (tensor.to(self.device) for tensor in (pictures, directions, signs))
        on_device, directions, signs = moved
        return _Batch(Carriers(on_device), directions, signs, life)

    @torch.no_grad()
    def _follow_mean(self, pictures: Tensor) -> None:
        """Let the mean feature follow the body; the layer norm's output without it is `feature + mean`."""
        with self._precision():
            self.extractor.mean += _MEAN_RATE * self.extractor(pictures).mean(0)

    @torch.no_grad()
    def _measure_mean(self) -> None:
        """The mean feature over many fresh pictures, with and without attacks, in full precision."""
        generator = torch.Generator().manual_seed(self.config.seed + 1)
        total = torch.zeros_like(self.extractor.mean)
        for part in range(_MEAN_PARTS):
            pictures = procedural_pictures(_MEAN_PART, self.config.size, generator).to(self.device)
            attacked = random_attacks(pictures, float(part % 2), generator)
            total += self.extractor(attacked).mean(0)
        self.extractor.mean += total / _MEAN_PARTS

    def _precision(self) -> contextlib.AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bfloat16)

    def _save(self) -> None:
        trainer = optimizer_tensors(self.optimizer)
        trainer["seconds"] = torch.tensor(self.seconds, dtype=torch.float64)
        trainer["seed"] = torch.tensor(self.config.seed)
        try:
            save_checkpoint(self.folder, self.step, self.extractor.state_dict(), trainer)
        except CheckpointNotSaved as error:
            raise TrainingFailed(str(error)) from error

    def _resume(self) -> None:
        found = list_checkpoints(self.folder)
        if not found:
            return
        checkpoint = load_checkpoint(found[0][1])
        trainer = checkpoint.trainer
        if int(trainer["seed"]) != self.config.seed:
            raise UserError(
                f"the training in it has seed {int(trainer['seed'])}, not {self.config.seed}", where=self.folder,
                fix="Use the same seed or another folder",
            )  # fmt: skip
        self.extractor.load_state_dict(checkpoint.weights)
        load_optimizer_tensors(self.optimizer, trainer)
        self.step, self.seconds = checkpoint.step, float(trainer["seconds"])


def training_notes(config: ExtractorTraining) -> dict[str, str]:
    """The settings as notes for the extractor's file."""
    return {name: str(value) for name, value in asdict(config).items()}
