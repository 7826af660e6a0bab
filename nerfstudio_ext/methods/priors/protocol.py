"""What a picture prior offers to lifting: it knows how things look from where no photo was taken.

All priors are denoisers with a noise schedule, so that one loss (`lift_distillation`) serves them all, from a closed
formula to Stable Diffusion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor

OVERHEAD_DEG = 60.0
"""From this elevation on a view counts as from above; the paper has 30 degrees from the vertical."""
SECTOR_DEG = 60.0
"""Half the width of the sectors that count as front and back, as in the paper."""


@dataclass(frozen=True)
class Views:
    """V cameras that look at the object, given by where they stand.

    Attributes:
        azimuth_deg: Around the vertical axis, counterclockwise seen from above; 0 is where the photo was taken from.
        elevation_deg: Above the horizon.
        distance: From the object's centre, scene units; the object lies in the cube of edge 1 around it.
        fov_y_deg: Vertical field of view.
    """

    azimuth_deg: Float[Tensor, " V"]
    elevation_deg: Float[Tensor, " V"]
    distance: Float[Tensor, " V"]
    fov_y_deg: Float[Tensor, " V"]

    def __len__(self) -> int:
        return len(self.azimuth_deg)


@dataclass(frozen=True)
class Subject:
    """What is known of the object: the photo, where it was taken from, and words.

    Attributes:
        rgb: The photo, straight colours 0..1.
        alpha: Its foreground 0..1.
        view: The one camera it was taken with, at azimuth 0.
        text: What it shows, for priors that read; may be empty.
        negative_text: What it shall not show.
        class_name: Kind of thing, for priors that know classes; empty leaves them to look at the photo.
    """

    rgb: Float[Tensor, "3 H W"]
    alpha: Float[Tensor, "1 H W"]
    view: Views
    text: str = ""
    negative_text: str = ""
    class_name: str = ""


@dataclass(frozen=True)
class PriorFacts:
    """What has to be known about a prior before it is used.

    Attributes:
        name: The word for it on the command line.
        licence: Licence of its weights, for people; of several models one after the other.
        side: Side of the square pictures it looks at, pixels; others are resized by `encode`.
        guidance: Strength of classifier-free guidance that suits it; 1 is none.
        defines_back: Whether it knows anything about what the photo does not show.
        views: (azimuth, elevation) in degrees of the only views it knows; None: any.
        distance: The only distance it knows, scene units; None: any.
        fov_y_deg: The only field of view it knows; None: any.
        models: Id and revision of every model it consists of, by role; for the run's records.
    """

    name: str
    licence: str
    side: int
    guidance: float = 1.0
    defines_back: bool = True
    views: tuple[tuple[float, float], ...] | None = None
    distance: float | None = None
    fov_y_deg: float | None = None
    models: Mapping[str, str] | None = None


class Prior(Protocol):
    """A denoiser of pictures of an object from given views.

    Attributes:
        facts: See `PriorFacts`.
        alphas_cumprod: Share of the signal's variance left at each noise step, falling from near 1 to near 0; noisy
            latents are `sqrt(a) z + sqrt(1 - a) noise`.
    """

    facts: PriorFacts
    alphas_cumprod: Float[Tensor, " T"]

    def take_subject(self, subject: Subject) -> None:
        """Learn what is wanted, once before the first `denoise`: encode text and photo."""

    def encode(
        self, rgb: Float[Tensor, "V 3 H W"], alpha: Float[Tensor, "V 1 H W"], background: Float[Tensor, "V 3"]
    ) -> Float[Tensor, "V C h w"]:
        """Pictures as the latents that are denoised; differentiable, float32.

        Args:
            rgb: Colours premultiplied with `alpha`.
            alpha: Opacity.
            background: Colour to put behind; priors that see the opacity, or know one background only, ignore it.
        """

    def decode(self, latents: Float[Tensor, "V C h w"]) -> Float[Tensor, "V 3 H W"]:
        """Latents as pictures 0..1, for losses that look at the denoised estimate; differentiable."""

    def denoise(
        self, noisy: Float[Tensor, "V C h w"], steps: Int64[Tensor, " V"], views: Views, guidance: float
    ) -> Float[Tensor, "V C h w"]:
        """The noise in noisy latents, as the prior sees it; float32, without gradients.

        Args:
            noisy: `sqrt(a) z + sqrt(1 - a) noise` with `a = alphas_cumprod[steps]`.
            steps: Noise step of each latent.
            views: Where each was seen from.
            guidance: `noise = without + guidance * (with conditions - without)`.
        """


def view_words(azimuth_deg: float, elevation_deg: float) -> str:
    """The words for a view that are put behind a text; thresholds as in the paper."""
    if elevation_deg >= OVERHEAD_DEG:
        return "overhead view"
    if elevation_deg <= -OVERHEAD_DEG:
        return "bottom view"
    around = abs((azimuth_deg + 180) % 360 - 180)
    if around <= SECTOR_DEG:
        return "front view"
    return "back view" if around >= 180 - SECTOR_DEG else "side view"


def view_texts(text: str, views: Views) -> list[str]:
    """The text of each view: "a cabin, back view"; only the view where there is no text."""
    words = [view_words(float(a), float(e)) for a, e in zip(views.azimuth_deg, views.elevation_deg, strict=True)]
    return [f"{text}, {word}" if text else word for word in words]


def linear_alphas(n: int = 1000, first: float = 0.00085, last: float = 0.012) -> Float[Tensor, " T"]:
    """The schedule of Stable Diffusion ("scaled linear"): roots of the noise variances rise evenly."""
    betas = torch.linspace(first**0.5, last**0.5, n, dtype=torch.float64).square()
    return (1 - betas).cumprod(0).float()
