"""CLIP as a judge of pictures: embeddings of renders, of the photo and of texts in one space (Radford et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from .pretrained import ModelNote, ModelSource, library, load_model, load_part

DEFAULT_MODEL = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
_PURPOSE = "CLIP guidance"


class ClipImages:
    """Pictures, and texts, as unit vectors.

    Args:
        model: `CLIPModel`.
        preprocessing: Mean and deviation of the pictures it was trained on.
        tokenizer: Text to tokens.
        note: Where it comes from.

    Attributes:
        note: See above.
    """

    def __init__(
        self, model: Any, preprocessing: tuple[tuple[float, ...], tuple[float, ...]], tokenizer: Any, note: ModelNote
    ) -> None:
        self._model, self._preprocessing, self._tokenizer = model, preprocessing, tokenizer
        self._side = int(model.config.vision_config.image_size)
        self.note = note

    @classmethod
    def load(
        cls, name: str = "", *, revision: str = "", offline: bool = False, device: torch.device | str = "cpu"
    ) -> ClipImages:
        """Load a CLIP model from the hub or a folder.

        Raises:
            UserError: if a package is missing or the model cannot be had whole.
        """
        transformers = library("transformers", _PURPOSE)
        source = ModelSource(name or DEFAULT_MODEL, revision, offline)
        model, note = load_model(transformers.CLIPModel, source, purpose=_PURPOSE)
        images = load_part(transformers.CLIPImageProcessor, source, purpose=_PURPOSE)
        tokenizer = load_part(transformers.CLIPTokenizer, source, purpose=_PURPOSE)
        mean_and_deviation = tuple(images.image_mean), tuple(images.image_std)
        return cls(model.float().to(device), mean_and_deviation, tokenizer, note)

    def __call__(self, pictures: Float[Tensor, "V 3 H W"]) -> Float[Tensor, "V E"]:
        """Unit embeddings of pictures 0..1; differentiable, float32."""
        pixels = normalised(pictures.to(self._model.device), self._side, *self._preprocessing)
        features = _pooled(self._model.get_image_features(pixel_values=pixels))
        return functional.normalize(features, dim=-1).to(pictures.device)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Float[Tensor, "N E"]:
        """Unit embeddings of texts, float32."""
        tokens = self._tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        features = self._model.get_text_features(**tokens.to(self._model.device))
        return functional.normalize(_pooled(features), dim=-1).cpu()


def normalised(
    pictures: Float[Tensor, "V 3 H W"], side: int, mean: Sequence[float], deviation: Sequence[float]
) -> Float[Tensor, "V 3 side side"]:
    """Pictures 0..1 as a CLIP image encoder takes them; done once, here, and differentiable."""
    if pictures.shape[-2:] != (side, side):
        pictures = functional.interpolate(
            pictures, (side, side), mode="bicubic", align_corners=False, antialias=True
        ).clamp(0, 1)
    shape = (1, 3, 1, 1)
    return (pictures - pictures.new_tensor(mean).reshape(shape)) / pictures.new_tensor(deviation).reshape(shape)


def _pooled(features: Any) -> Tensor:
    """The embedding, whichever way this version of transformers returns it."""
    pooled: Tensor = features if isinstance(features, Tensor) else features.pooler_output
    return pooled
