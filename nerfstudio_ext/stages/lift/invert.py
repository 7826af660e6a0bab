"""The stage `invert`: Stable Diffusion learns a word for what the photo shows (Gal et al. 2022, arXiv 2208.01618).

One embedding is trained, nothing else; the texts of lifting then name the very object and not just its kind.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors.torch import save as pack_safetensors
from torch import Tensor
from torch.nn import functional

from ...errors import UserError
from ...methods.priors.latents import LatentCoder, noise_of, signal_share
from ...methods.priors.stable_diffusion import DiffusionParts, new_word
from ...progress import Progress, SilentProgress
from ...scenes.prepared import PreparedPhoto
from ...tensor_files import read_tensors
from .pictures import over_checker, row_of, save_picture

logger = logging.getLogger(__name__)
WORD_FILE, STATE_FILE, PICTURE = "word.safetensors", "state.safetensors", "inverted.png"
TEMPLATES = (
    "a photo of {}", "a picture of {}", "a close photo of {}", "a studio photo of {}", "a sharp photo of {}",
    "{} before a white background", "a photo of one {}", "a bright photo of {}",
)  # fmt: skip
_SHIFT, _SCALE, _ANGLE, _TONE = 0.08, (0.8, 1.1), 10.0, 0.04
"""How far each copy of the photo is moved, scaled, turned (degrees) and tinted. It is never mirrored: a word learned
from mirrored copies no longer knows left from right."""
MAX_STATE_BYTES = 1 << 20
_STEPS_PER_SAVE = 50
_SAMPLES, _SAMPLE_STEPS, _SAMPLE_GUIDANCE = 2, 20, 7.5


@dataclass(frozen=True)
class InvertSettings:
    """How the word is learned."""

    word: str = "<object>"
    """The word; texts then contain it."""
    invert_steps: int = 1000
    """Steps of learning."""
    invert_lr: float = 2e-3
    """Learning rate."""

    def __post_init__(self) -> None:
        if not self.word or any(c.isspace() for c in self.word) or self.invert_steps < 1 or self.invert_lr <= 0:
            raise UserError(
                "the word must be one word, steps and rate positive",
                where="--word, --invert-steps",
                fix="Correct the values",
            )


def learn_word(
    parts: DiffusionParts, photo: PreparedPhoto, kind: str, settings: InvertSettings, folder: Path, *,
    seed: int = 0, device: str = "cpu", progress: Progress | None = None,
) -> Path:  # fmt: skip
    """Learn a word, keep it in a folder with a picture of what the model draws under it; goes on where it stopped.

    Args:
        parts: The model; changed: it knows the word afterwards.
        photo: The cut-out.
        kind: What the thing is, in a word or a few; the new word begins as the mean of theirs.
        settings: How.
        folder: Where `word.safetensors` goes, and the state while it is being learned.
        seed: Of the random choices.
        device: Where to compute.
        progress: Told about every step.
    Returns:
        The file with the word.
    Raises:
        UserError: if the model knows the word already, or the folder cannot be written.
    """
    progress = progress or SilentProgress()
    learner = _Learner(parts, photo, kind, settings, seed, device)
    learner.restore(folder / STATE_FILE)
    progress.stage(f"learning the word {settings.word}", settings.invert_steps)
    while learner.step < settings.invert_steps:
        loss = learner.take_step()
        progress.advance(learner.step, f"loss {loss:.3f}")
        if learner.step % _STEPS_PER_SAVE == 0 or learner.step == settings.invert_steps:
            learner.save(folder)
    progress.stage("drawing what the word means", _SAMPLE_STEPS)
    drawn = learner.draw(progress.advance)
    side = drawn[0].shape[0]
    save_picture(row_of([over_checker(photo.rgba, side), *drawn]), folder / PICTURE)
    return folder / WORD_FILE


class _Learner:
    """The vector in training and everything it needs."""

    def __init__(
        self, parts: DiffusionParts, photo: PreparedPhoto, kind: str, settings: InvertSettings, seed: int, device: str
    ) -> None:
        self.parts, self.settings, self.device = parts, settings, torch.device(device)
        for network in (parts.unet, parts.vae, parts.text_encoder):
            network.to(self.device)
        parts.unet.enable_gradient_checkpointing()
        side = int(parts.unet.config.sample_size) * 2 ** (len(parts.vae.config.block_out_channels) - 1)
        self.coder = LatentCoder(parts.vae, side, torch.float32)
        self.alphas = parts.schedule.alphas_cumprod.float()
        self.kind = str(parts.schedule.config.prediction_type)
        start = _mean_embedding(parts, kind)
        self.place = new_word(parts, settings.word)
        parts.text_encoder.to(self.device)
        self.vector = start.to(self.device).requires_grad_()
        self.optimizer = torch.optim.AdamW([self.vector], lr=settings.invert_lr, weight_decay=0.0)
        self.generator = torch.Generator().manual_seed(seed)
        self.rgba = torch.from_numpy(photo.rgba.copy()).permute(2, 0, 1).float()[None] / 255
        self.step = 0

    def take_step(self) -> float:
        """One picture, one noise level; returns the loss."""
        picture = augmented(self.rgba, self.generator).to(self.device)
        with torch.no_grad():
            latents = self.coder.encode(picture)
        noise = torch.randn(latents.shape, generator=self.generator).to(self.device)
        times = torch.randint(len(self.alphas), (1,), generator=self.generator).to(self.device)
        a = signal_share(self.alphas, times, latents)
        noisy = a.sqrt() * latents + (1 - a).sqrt() * noise
        which = int(torch.randint(len(TEMPLATES), (1,), generator=self.generator))
        embeddings = self._embeddings(TEMPLATES[which].format(self.settings.word))
        predicted = self.parts.unet(noisy, times, encoder_hidden_states=embeddings).sample
        loss = functional.mse_loss(noise_of(predicted, noisy, a, self.kind), noise)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step += 1
        return float(loss.detach())

    @torch.no_grad()
    def draw(self, on_step: Callable[[int], object]) -> list[UInt8[np.ndarray, "S S 3"]]:
        """A few pictures that the model draws under the word, by DDIM (Song et al. 2021)."""
        text = f"a photo of {self.settings.word}"
        wanted = self._embeddings(text).expand(_SAMPLES, -1, -1)
        unwanted = self._embeddings("").expand(_SAMPLES, -1, -1)
        generator = torch.Generator().manual_seed(self.settings.invert_steps)
        size = int(self.parts.unet.config.sample_size)
        latents = torch.randn((_SAMPLES, int(self.parts.unet.config.in_channels), size, size), generator=generator)
        latents = latents.to(self.device)
        times = torch.linspace(len(self.alphas) - 1, 0, _SAMPLE_STEPS + 1).long().to(self.device)
        for done, (now, then) in enumerate(zip(times[:-1], times[1:], strict=True), start=1):
            a, b = self.alphas.to(self.device)[now], self.alphas.to(self.device)[then]
            both = self.parts.unet(
                torch.cat([latents, latents]), now, encoder_hidden_states=torch.cat([wanted, unwanted])
            ).sample
            share = a.reshape(1, 1, 1, 1)
            with_word, without = (noise_of(part, latents, share, self.kind) for part in both.chunk(2))
            noise = without + _SAMPLE_GUIDANCE * (with_word - without)
            latents = b.sqrt() * (latents - (1 - a).sqrt() * noise) / a.sqrt() + (1 - b).sqrt() * noise
            on_step(done)
        pictures = (self.coder.decode(latents).permute(0, 2, 3, 1) * 255).round().to(torch.uint8).cpu().numpy()
        return list(pictures)

    def save(self, folder: Path) -> None:
        """Write the word as it is now, and the state to go on from."""
        state: dict[str, Tensor] = {
            "vector": self.vector.detach().cpu(),
            "step": torch.tensor(self.step),
            "generator": self.generator.get_state(),
        }
        for name, value in self.optimizer.state[self.vector].items():
            state[f"optimizer/{name}"] = torch.as_tensor(value).cpu()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, tensors in ((WORD_FILE, {self.settings.word: state["vector"]}), (STATE_FILE, state)):
                temporary = folder / f".{name}.tmp"
                temporary.write_bytes(pack_safetensors({k: v.contiguous() for k, v in tensors.items()}))
                temporary.replace(folder / name)
        except OSError as error:
            raise UserError(f"cannot be written: {error.strerror}", where=folder, fix="Free some space") from None

    def restore(self, path: Path) -> None:
        """Go on from a state, where there is one that fits."""
        if not path.is_file():
            return
        try:
            state, _ = read_tensors(path, max_bytes=MAX_STATE_BYTES)
            vector = state["vector"]
            if vector.shape != self.vector.shape:
                raise ValueError(f"{vector.shape[0]} numbers, not {self.vector.shape[0]}")
            step, generator = int(state["step"]), state["generator"]
            optimizer = {k.removeprefix("optimizer/"): v for k, v in state.items() if k.startswith("optimizer/")}
        except (UserError, ValueError, KeyError) as error:
            logger.warning("%s cannot be used (%s): the word is learned from the beginning", path, error)
            return
        with torch.no_grad():
            self.vector.copy_(vector)
        self.generator.set_state(generator)
        self.optimizer.state[self.vector] = {
            name: value if name == "step" else value.to(self.device) for name, value in optimizer.items()
        }
        self.step = step

    def _embeddings(self, text: str) -> Float[Tensor, "1 L E"]:
        """The text's embeddings with the present vector in the place of the word; differentiable in the vector."""
        tokenizer = self.parts.tokenizer
        tokens = tokenizer(
            [text], padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
        ).input_ids.to(self.device)
        with _word_replaced(self.parts.text_encoder.get_input_embeddings(), self.place, self.vector):
            found: Tensor = self.parts.text_encoder(tokens)[0]
        return found


@contextmanager
def _word_replaced(table: Any, place: int, vector: Float[Tensor, " E"]) -> Iterator[None]:
    """Inside, the table of embeddings gives `vector` for one token: its other rows stay out of the training."""

    def replace(_table: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return torch.where((inputs[0] == place)[..., None], vector.to(output), output)

    handle = table.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


def augmented(rgba: Float[Tensor, "1 4 H W"], generator: torch.Generator) -> Float[Tensor, "1 3 H W"]:
    """A copy of the cut-out on white: moved, scaled, turned and tinted a little, never mirrored."""
    draws = 2 * torch.rand(8, generator=generator) - 1
    scale = _SCALE[0] + (_SCALE[1] - _SCALE[0]) * float(draws[0] + 1) / 2
    angle = torch.deg2rad(_ANGLE * draws[1])
    cosine, sine = float(angle.cos()) / scale, float(angle.sin()) / scale
    matrix = torch.tensor([[cosine, -sine, float(_SHIFT * draws[2])], [sine, cosine, float(_SHIFT * draws[3])]])
    premultiplied = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], 1)
    grid = functional.affine_grid(matrix[None], list(premultiplied.shape), align_corners=False)
    moved = functional.grid_sample(premultiplied, grid, align_corners=False)
    tint = 1 + _TONE * draws[4:7].reshape(1, 3, 1, 1)
    return (moved[:, :3] * tint + 1 - moved[:, 3:]).clamp(0, 1)


def _mean_embedding(parts: DiffusionParts, kind: str) -> Float[Tensor, " E"]:
    """The mean embedding of the tokens of some words; of "object" where there are none."""
    tokens = parts.tokenizer(kind or "object", add_special_tokens=False, return_tensors="pt").input_ids[0]
    table: Tensor = parts.text_encoder.get_input_embeddings().weight.detach()
    return table[tokens.to(table.device)].float().mean(0).clone()
