"""The prior `sd`: Stable Diffusion, which knows what things look like that a text names (Rombach et al. 2022).

Score distillation from it is what NeuralLift-360 (arXiv 2211.16431) and DreamFusion do. Loaded in parts by the classes
of diffusers and transformers, from the hub or from a folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ...errors import UserError
from ...tensor_files import read_tensors
from ..pretrained import ModelNote, ModelSource, library, load_model, load_part
from .latents import (
    LatentCoder,
    choose_low_memory,
    estimated_bytes,
    noise_of,
    or_with_less_memory,
    signal_share,
    weight_bytes,
    working_precision,
)
from .protocol import PriorFacts, Subject, Views, view_texts

if TYPE_CHECKING:
    from . import PriorSettings

DEFAULT_MODEL = "stable-diffusion-v1-5/stable-diffusion-v1-5"
MAX_WORD_BYTES = 1 << 20
GUIDANCE = 100.0
"""Of the paper and of DreamFusion: far above what pictures are drawn with, because a mean over views is sought."""
_VIEWS_AT_ONCE = 2
"""Views that go through the denoiser together: more would take memory and hardly less time."""
_PROBES = ((0.0, 0.0), (90.0, 0.0), (180.0, 0.0), (0.0, 90.0), (0.0, -90.0))
"""One view of each sector that has words of its own."""


@dataclass
class DiffusionParts:
    """What a Stable Diffusion model consists of.

    Attributes:
        unet: Denoiser of latents.
        vae: Pictures to latents and back.
        text_encoder: Tokens to embeddings.
        tokenizer: Text to tokens.
        schedule: Noise schedule.
        notes: Where the networks come from.
    """

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    schedule: Any
    notes: tuple[ModelNote, ...]


def load_parts(source: ModelSource) -> DiffusionParts:
    """Load all parts of a Stable Diffusion model, on the CPU.

    Raises:
        UserError: if a package is missing, or a part cannot be had whole.
    """
    diffusers, transformers = library("diffusers", "the prior 'sd'"), library("transformers", "the prior 'sd'")
    purpose = "the prior 'sd'"
    unet, note = load_model(diffusers.UNet2DConditionModel, source, purpose=purpose, subfolder="unet")
    if unet.config.in_channels != unet.config.out_channels:
        raise UserError(
            f"its denoiser takes {unet.config.in_channels} channels and gives {unet.config.out_channels}: a text alone "
            "is not enough for it",
            where=source.name,
            fix="Use a plain text-to-image Stable Diffusion; view-conditioned models go with --prior view",
        )
    vae, _ = load_model(diffusers.AutoencoderKL, source, purpose=purpose, subfolder="vae")
    text, _ = load_model(transformers.CLIPTextModel, source, purpose=purpose, subfolder="text_encoder")
    tokenizer = load_part(transformers.CLIPTokenizer, source, purpose=purpose, subfolder="tokenizer")
    schedule = load_part(diffusers.DDIMScheduler, source, purpose=purpose, subfolder="scheduler")
    return DiffusionParts(unet, vae, text, tokenizer, schedule, (note,))


class StableDiffusionPrior:
    """Stable Diffusion behind the protocol `Prior`.

    Args:
        parts: The model.
        settings: Device, precision, memory.
    """

    def __init__(self, parts: DiffusionParts, settings: PriorSettings) -> None:
        self.device = torch.device(settings.device)
        self.dtype = working_precision(self.device, settings.half_precision)
        self.facts = PriorFacts(
            name="sd",
            licence=parts.notes[0].licence,
            side=int(parts.unet.config.sample_size) * 2 ** (len(parts.vae.config.block_out_channels) - 1),
            guidance=GUIDANCE,
            models={"stable diffusion": _named(parts.notes[0])},
        )
        self.alphas_cumprod: Float[Tensor, " T"] = parts.schedule.alphas_cumprod.float()
        self._kind = str(parts.schedule.config.prediction_type)
        self._parts = parts
        for network in (parts.unet, parts.vae, parts.text_encoder):
            network.to(self.dtype)
        estimates = [self._estimate(parts, low_memory=low) for low in (True, False)]
        self.low_memory = choose_low_memory(settings.low_memory, self.device, (estimates[0], estimates[1]), "sd")
        self.estimated_bytes = estimates[0 if self.low_memory else 1]
        self._unet = parts.unet.to(self.device)
        self._coder = LatentCoder(parts.vae.to(self.device), self.facts.side, self.dtype)
        self._embeddings: dict[str, Float[Tensor, "L E"]] = {}
        if self.low_memory:
            self._save_memory()

    @classmethod
    def load(cls, settings: PriorSettings) -> StableDiffusionPrior:
        """Load the model that the settings name.

        Raises:
            UserError: as `load_parts`, and if a learned word does not fit the model.
        """
        source = ModelSource(settings.model or DEFAULT_MODEL, settings.revision, settings.offline)
        parts = load_parts(source)
        if settings.embedding:
            add_word(parts, Path(settings.embedding))
        return cls(parts, settings)

    def take_subject(self, subject: Subject) -> None:
        """Encode the text of every direction; the text encoder then leaves the GPU.

        Raises:
            UserError: if the photo has no text: this prior knows things by their names only.
        """
        if not subject.text:
            raise UserError(
                "this prior must be told what the photo shows", where="the prior 'sd'",
                fix='Give --text "a blue wooden chair", or let --invert learn a word for it',
            )  # fmt: skip
        encoder, tokenizer = self._parts.text_encoder.to(self.device), self._parts.tokenizer
        probes = torch.tensor(_PROBES).T
        ones = torch.ones(len(_PROBES))
        views = Views(probes[0], probes[1], ones, ones)
        for text in {*view_texts(subject.text, views), subject.negative_text}:
            self._embeddings[text] = encode_text(text, tokenizer, encoder).to(self.dtype)
        self._subject = subject
        encoder.to("cpu")

    def encode(
        self, rgb: Float[Tensor, "V 3 H W"], alpha: Float[Tensor, "V 1 H W"], background: Float[Tensor, "V 3"]
    ) -> Float[Tensor, "V C h w"]:
        """Pictures over the background as latents; see `Prior`."""
        pictures = (rgb + (1 - alpha) * background[:, :, None, None]).to(self.device)
        return or_with_less_memory(lambda: self._coder.encode(pictures), self._save_memory, "sd").to(rgb.device)

    def decode(self, latents: Float[Tensor, "V C h w"]) -> Float[Tensor, "V 3 H W"]:
        """Latents as pictures; see `Prior`."""
        moved = latents.to(self.device)
        return or_with_less_memory(lambda: self._coder.decode(moved), self._save_memory, "sd").to(latents.device)

    @torch.no_grad()
    def denoise(
        self, noisy: Float[Tensor, "V C h w"], steps: Int64[Tensor, " V"], views: Views, guidance: float
    ) -> Float[Tensor, "V C h w"]:
        """The noise the model sees, under the text of each view's direction; see `Prior`."""
        wanted = torch.stack([self._embeddings[text] for text in view_texts(self._subject.text, views)])
        unwanted = self._embeddings[self._subject.negative_text].expand_as(wanted)
        moved, times = noisy.to(self.device), steps.to(self.device)

        def both() -> Tensor:
            return guided(self._predict, moved, times, wanted, unwanted, guidance, one_by_one=self.low_memory)

        prediction = or_with_less_memory(both, self._save_memory, "sd")
        a = signal_share(self.alphas_cumprod, times, moved)
        return noise_of(prediction, moved, a, self._kind).to(noisy.device)

    def _predict(self, noisy: Tensor, steps: Tensor, embeddings: Tensor) -> Tensor:
        result: Tensor = self._unet(noisy.to(self.dtype), steps, encoder_hidden_states=embeddings).sample
        return result.float()

    def _save_memory(self) -> bool:
        is_new = not self.low_memory
        self.low_memory = True
        self._unet.set_attention_slice("auto")
        self._coder.save_memory()
        return is_new

    def _estimate(self, parts: DiffusionParts, *, low_memory: bool) -> float:
        weights = weight_bytes(parts.unet, parts.vae, *(() if low_memory else (parts.text_encoder,)))
        return estimated_bytes(weights, self.facts.side, with_decoder=True, low_memory=low_memory, dtype=self.dtype)


def guided(
    predict: Any, noisy: Tensor, steps: Tensor, wanted: Tensor, unwanted: Tensor, guidance: float, *, one_by_one: bool
) -> Tensor:
    """Classifier-free guidance: `without + guidance * (with - without)` (Ho and Salimans 2022).

    Args:
        predict: Network (latents, steps, conditions) -> output.
        noisy: Latents of all views.
        steps: Noise step of each.
        wanted: Conditions of each.
        unwanted: Conditions to move away from; the neutral ones where guidance is plain.
        guidance: Strength; at 1 only `wanted` counts.
        one_by_one: One view and one pass at a time; otherwise two views and both passes.
    """
    size = 1 if one_by_one else _VIEWS_AT_ONCE
    found = []
    for x, t, c, u in zip(*(given.split(size) for given in (noisy, steps, wanted, unwanted)), strict=True):
        if guidance == 1:
            found.append(predict(x, t, c))
            continue
        if one_by_one:
            with_conditions, without = predict(x, t, c), predict(x, t, u)
        else:
            with_conditions, without = predict(x.repeat(2, 1, 1, 1), t.repeat(2), torch.cat([c, u])).chunk(2)
        found.append(without + guidance * (with_conditions - without))
    return torch.cat(found)


@torch.no_grad()
def encode_text(text: str, tokenizer: Any, encoder: Any) -> Float[Tensor, "L E"]:
    """Embeddings of a text's tokens, padded or cut to the model's length."""
    tokens = tokenizer(
        [text], padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids
    found: Tensor = encoder(tokens.to(encoder.device))[0]
    return found[0]


def add_word(parts: DiffusionParts, path: Path) -> str:
    """Teach a model the word that `invert` has learned; returns the word.

    Args:
        parts: Changed in place.
        path: Safetensors file with one tensor [E], named like the word.
    Raises:
        UserError: if the file cannot be read or was learned for another model.
    """
    tensors, _ = read_tensors(path, max_bytes=MAX_WORD_BYTES, noun="learned word", fix="Learn it again")
    table = parts.text_encoder.get_input_embeddings().weight
    if len(tensors) != 1 or next(iter(tensors.values())).shape != table.shape[1:]:
        raise UserError(
            f"the learned word does not fit a text encoder of width {table.shape[1]}", where=path,
            fix="Learn it with the same model",
        )  # fmt: skip
    ((word, vector),) = tensors.items()
    place = new_word(parts, word)
    with torch.no_grad():
        parts.text_encoder.get_input_embeddings().weight[place] = vector.to(table)
    return word


def new_word(parts: DiffusionParts, word: str) -> int:
    """Add a token for a word; returns its row in the table of embeddings.

    Raises:
        UserError: if the tokenizer knows the word already.
    """
    if parts.tokenizer.add_tokens(word) == 0:
        raise UserError(f"the model knows the word '{word}' already", where="invert", fix="Choose another word")
    parts.text_encoder.resize_token_embeddings(len(parts.tokenizer), mean_resizing=False)
    parts.text_encoder.requires_grad_(False)
    return int(parts.tokenizer.convert_tokens_to_ids(word))


def _named(note: ModelNote) -> str:
    return f"{note.name} {note.revision}".strip()
