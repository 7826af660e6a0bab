"""An extractor of one's own: the public one, trained on together with the scene it is to read."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from .extractor import Extractor
from .objective import CodeBits, CodeOf, margin_loss
from .procedural import procedural_pictures

_RATE, _LAST_RATE = 3e-4, 3e-5
_KEEP = 4.0
"""Weight of what unmarked pictures must go on saying."""
_OTHERS, _OTHERS_SIDE = 2, 80
"""Pictures of nothing in particular among the unmarked ones, and their side in pixels."""


class PrivateBits(CodeBits):
    """Code bits under a key, for an extractor that learns with the scene.

    To unmarked pictures, of this scene and of others, it goes on answering as the extractor it began as: without
    preference for any message, as p-values take for granted. To that, a marked picture adds what the mark alone
    changes. Without the second rule it learned the message by heart: it read 91 % of the bits in unmarked renders.

    Args:
        public: What to begin with; not changed.
        projection: [N,F] of the key.
        code_of: The signs each view is to show.
        needed: As `CodeBits`.
        bfloat16: As `CodeBits`.
        generator: Draws the other pictures.
    Source: Li et al. 2023 (StegaNeRF), section 3.2: decoder and scene are trained together.
    """

    sees_unmarked = True
    settling = 0.1

    def __init__(
        self, public: Extractor, projection: Float[Tensor, "N F"], code_of: CodeOf | None = None, *,
        generator: torch.Generator, needed: int = 0, bfloat16: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(public, projection, code_of, needed=needed, bfloat16=bfloat16)
        self.extractor = copy.deepcopy(public).requires_grad_(True)
        self.public, self.generator = public, generator
        self.optimizer = torch.optim.AdamW(self.extractor.parameters(), _RATE, weight_decay=0.0)

    def loss(self, pictures: Float[Tensor, "2 3 H W"], index: int) -> tuple[Tensor, float]:
        """Loss of a marked and the unmarked picture of a view, and the share of bits that are right."""
        signs = self.code_of(index)
        others = procedural_pictures(_OTHERS, _OTHERS_SIDE, self.generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            features = self.extractor(pictures).float()
            said = torch.cat([features[1:], self.extractor(others).float()])
            with torch.no_grad():
                said_before = torch.cat([self.public(pictures[1:]).float(), self.public(others).float()])
        logits = (features[0] - features[1] + said_before[0]) @ self.projection.T
        right = float((logits.detach() * signs > 0).float().mean())
        return margin_loss(logits, signs) + _KEEP * functional.mse_loss(said, said_before), right

    def finish_step(self, progress: float) -> None:
        """Follow the gradient of the looks since the last step."""
        for group in self.optimizer.param_groups:
            group["lr"] = _RATE + (_LAST_RATE - _RATE) * progress
        nn.utils.clip_grad_norm_(self.extractor.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
