"""Looking for a hidden picture in pictures with the decoder of a scene; needs no scene, no camera and no photos."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import UserError
from ...progress import Progress, SilentProgress
from .keys import Key
from .picture_decoder import PictureDecoder
from .scale_search import View, check_size
from .weight_files import checksum

CONVINCING = 0.01
"""Largest p-value of a find. A decoder is a classifier without a key: nothing bounds its false alarms but examples."""


@dataclass(frozen=True)
class HiddenView:
    """What the classifier says about one picture: probability (0 to 1) and logit of being marked."""

    name: str
    probability: float
    logit: float


@dataclass(frozen=True)
class HiddenFinding:
    """The answer to: do these pictures show something hidden?

    Attributes:
        present: Whether they do.
        probability: That they are marked, of all pictures together.
        p_value: Share of the unmarked pictures which the decoder was shown that look as marked as these together.
        values: [C,S,S] what is hidden, mean over the pictures that show it; None where nothing is.
        views: Of each picture.
    """

    present: bool
    probability: float
    p_value: float
    values: Float[Tensor, "C S S"] | None
    views: tuple[HiddenView, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the picture; there is no key that random ones could be compared with."""
        return {
            "present": self.present,
            "payload": None,
            "probability": self.probability,
            "p_value": self.p_value,
            "p_value_random_keys": None,
            "views": [asdict(view) for view in self.views],
        }


@torch.no_grad()
def extract_hidden(views: Iterable[View], decoder: PictureDecoder, progress: Progress | None = None) -> HiddenFinding:
    """Show pictures of one scene to its decoder.

    Logits are averaged over the pictures before the decision; what is hidden is averaged over those that show it.

    Args:
        views: Pictures of any size from 64 pixels.
        decoder: Of the scene.
        progress: Told about each picture.
    Raises:
        UserError: if there is no picture or one is too small.
    """
    progress = progress or SilentProgress()
    progress.stage("look at pictures")
    found: list[HiddenView] = []
    total: Tensor | None = None
    for view in views:
        check_size(view.pixels.shape[1], view.pixels.shape[0], view.name)
        picture = torch.from_numpy(view.pixels.copy()).permute(2, 0, 1)[None].float() / 255
        hidden, logits = decoder(picture)
        logit = float(logits)
        found.append(HiddenView(view.name, float(logits.sigmoid()), logit))
        if logit > 0:
            total = hidden[0] if total is None else total + hidden[0]
        progress.advance(len(found), view.name)
    if not found:
        raise UserError("there is no picture to look at", fix="Pass a picture or a folder of pictures")
    mean = sum(view.logit for view in found) / len(found)
    p_value = decoder.p_value(mean)
    present = mean > 0 and p_value <= CONVINCING
    values = None if total is None or not present else (total / sum(view.logit > 0 for view in found)).clamp(0, 1)
    return HiddenFinding(present, float(torch.tensor(mean).sigmoid()), p_value, values, tuple(found))


def seal(key: Key, decoder: PictureDecoder, digest: str) -> str:
    """What only the key's owner can write beside a decoder: that these weights are theirs and hide this payload."""
    return key.stream(f"picture decoder {checksum(decoder.state_dict())} hides {digest}", 32).hex()


def is_sealed_with(key: Key, decoder: PictureDecoder, notes: Mapping[str, str]) -> bool:
    """Whether a decoder was made under a key."""
    return hmac.compare_digest(seal(key, decoder, notes.get("payload_sha256", "")), notes.get("seal", ""))
