"""Training a scene and a decoder together so that every render shows the decoder one hidden picture.

Losses as published: the hidden picture on marked renders, black on unmarked ones, and a classifier that tells them
apart. One is added: the classifier's answer to a view must rise with its mark. Without it a decoder that starts from
nothing learns not to look: what differs between views moves its answer a hundred times as much as the mark, so that
cross entropy is first of all lowered by making the answer constant. With it, and the same attacks on both, only the
mark is left to amplify: 100 steps on a small scene take the difference from 0.01 to 4, where 200 without left it.

Source: Li et al. 2023 (StegaNeRF), section 3.2 and its official code: half of each squared error, cross entropy.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from .curriculum import random_attacks
from .picture_decoder import N_NULL, WORKING_SIDE, PictureDecoder, to_working_size
from .procedural import procedural_pictures
from .scene_views import SceneView

_SHOWN, _BLACK, _TOLD_APART = 0.5, 0.5, 0.3
"""Weights of the losses. The last is 0.01 in the official code, whose classifier is a network of its own."""
_PAIRED, _PAIR_GAIN = 1.0, 2.0
"""Weight of the added loss, and how steep it is: at 8 it was content with a difference of 0.8."""
_RATE, _LAST_RATE = 2e-3, 1e-4
_MAPS_RATE = 10.0
"""Times the rate, for the maps of places: each value is one place's. At the common rate a photo had come to an SSIM of
0.75 after 180 steps on a flat wall, with this one to 0.90."""
_WARM_UP = 0.1
"""Share of the steps over which the decoder's rate grows: the scene first finds a direction in which the random
network is sensitive; chasing a network that learns at full rate it found none."""
_FOREIGN = 64
"""Pictures of nothing that are kept as examples of unmarked ones; one per step is shown."""
_NULL_BATCH = 8


class HiddenPicture:
    """An `Objective`: attacked renders show a decoder, which learns beside them, one picture.

    Args:
        decoder: Trained in place.
        target: [C,S,S] what it is to see in marked renders, 0 to 1.
        seed: Of the pictures that belong to no scene.
        bfloat16: Run the decoder in 16 bits.
    """

    sees_unmarked, is_local = True, False
    settling = 0.1
    """The budget may be kept by making the mark weaker at the end; the decoder gets used to what is left."""
    is_local = False
    measure = "of the attacked pictures told apart"

    def __init__(
        self, decoder: PictureDecoder, target: Float[Tensor, "C S S"], *, seed: int = 0, bfloat16: bool = True
    ) -> None:
        self.decoder, self.target, self.bfloat16 = decoder.train(), target, bfloat16
        self.generator = torch.Generator().manual_seed(seed)
        self.foreign = procedural_pictures(_FOREIGN, WORKING_SIDE, self.generator).half()
        maps = [parameter for name, parameter in decoder.named_parameters() if name.endswith(".maps")]
        others = [parameter for name, parameter in decoder.named_parameters() if not name.endswith(".maps")]
        groups = [{"params": others, "scale": 1.0}, {"params": maps, "scale": _MAPS_RATE, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=_RATE, weight_decay=1e-4)

    def loss(self, pictures: Float[Tensor, "2 3 H W"], index: int) -> tuple[Tensor, float]:
        """Loss of one marked and one unmarked view, and the share that the classifier has right.

        A picture that belongs to no scene comes with them, so that "marked" does not become "any other scene".
        """
        chosen = int(torch.randint(_FOREIGN, (1,), generator=self.generator))
        batch = torch.cat([to_working_size(pictures), self.foreign[chosen : chosen + 1].float()])
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            hidden, logits = self.decoder(batch)
        is_marked = torch.tensor([1.0, 0.0, 0.0])
        shown = (hidden[0] - self.target).square().mean()
        black = hidden[1:].square().mean()
        told_apart = functional.binary_cross_entropy_with_logits(logits, is_marked)
        right = float(((logits.detach() > 0) == is_marked.bool()).float().mean())
        rises = functional.softplus(-_PAIR_GAIN * (logits[0] - logits[1]))
        return _SHOWN * shown + _BLACK * black + _TOLD_APART * told_apart + _PAIRED * rises, right

    def check(self, right: float) -> None:
        """Nothing: a picture comes out better or worse, not whole or not at all."""

    def finish_step(self, progress: float) -> None:
        """One step of the decoder; the rate falls linearly."""
        for group in self.optimizer.param_groups:
            rate = (_RATE + (_LAST_RATE - _RATE) * progress) * min(1.0, progress / _WARM_UP + 0.01)
            group["lr"] = group["scale"] * rate
        torch.nn.utils.clip_grad_norm_(self.decoder.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


@torch.no_grad()
def learn_null(
    decoder: PictureDecoder, views: Sequence[SceneView], background: Float[Tensor, "3"], generator: torch.Generator,
    *, strength: float = 1.0,
) -> None:  # fmt: skip
    """Show the decoder unmarked pictures, half of them of its scene, after random attacks; keep what it says to them.

    Args:
        decoder: Trained; gets its `null_logits`.
        views: Of the unmarked scene.
        background: Colour behind it.
        generator: Draws views, attacks and pictures of nothing.
        strength: Of the attacks, 0 (none) to 1.
    """
    decoder.eval()
    logits: list[Tensor] = []
    for start in range(0, N_NULL, _NULL_BATCH):
        if start < N_NULL // 2:
            picked = torch.randint(len(views), (_NULL_BATCH,), generator=generator).tolist()
            pictures = (views[index].unmarked(background).permute(2, 0, 1)[None] for index in picked)
            batch = torch.cat([to_working_size(random_attacks(picture, strength, generator)) for picture in pictures])
        else:
            batch = procedural_pictures(_NULL_BATCH, WORKING_SIDE, generator)
        logits.append(decoder(batch)[1])
    decoder.set_null(torch.cat(logits)[:N_NULL])
