"""The exact score of a finite set of pictures: a diffusion prior that needs no training and is known to the last digit.

Each thing of the set is photographed from the same views. The best denoiser of the set is a weighted mean,
`sum_i w_i x_i` with `w = softmax(-|noisy - sqrt(a) x_i|^2 / (2 (1 - a)))`; the photo of the subject makes the weights
sharper by `exp(-|photo_i - photo|^2 / (2 width^2))`, a class leaves only its own things.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int64, UInt8
from safetensors.torch import save_file
from torch import Tensor

from ...errors import UserError
from ...tensor_files import read_tensors
from .pictures import from_latents, to_latents
from .protocol import PriorFacts, Subject, Views, linear_alphas

if TYPE_CHECKING:
    from . import PriorSettings

PHOTO_WIDTH = 0.03
"""Root mean square difference of premultiplied colours and opacities, 0..1, at which a photo shows another thing."""
MAX_BYTES = 1 << 31
_TENSORS = ("pictures", "photos", "views", "class_ids")
_FIX = "Name the file that `apps/train_lift_prior.py --write-set FILE` made with --prior-model"
NEGLIGIBLE = 12.0
"""Things whose photo is less likely than the best by this exponent are left out."""


@dataclass(frozen=True)
class PictureSet:
    """N things photographed from the same V views, premultiplied RGBA in 8 bits.

    Attributes:
        pictures: The pictures.
        photos: Each thing from the front, as subjects are.
        views: Azimuth and elevation of the V views, degrees.
        class_ids: Kind of each thing.
        class_names: Names of the kinds.
        distance: Of all cameras, scene units.
        fov_y_deg: Of all cameras.
    """

    pictures: UInt8[Tensor, "N V 4 S S"]
    photos: UInt8[Tensor, "N 4 S S"]
    views: Float[Tensor, "V 2"]
    class_ids: Int64[Tensor, " N"]
    class_names: tuple[str, ...]
    distance: float
    fov_y_deg: float


class EmpiricalPrior:
    """A `Prior` that knows a finite set.

    Args:
        known: The set.
        uses_photo: Whether the subject's photo counts; without it the class alone does.
    """

    def __init__(self, known: PictureSet, *, uses_photo: bool = True) -> None:
        views = tuple((float(a), float(e)) for a, e in known.views)
        self.facts = PriorFacts(
            "empirical", "none needed: it consists of the pictures it was given", known.pictures.shape[-1],
            views=views, distance=known.distance, fov_y_deg=known.fov_y_deg,
        )  # fmt: skip
        self.alphas_cumprod = linear_alphas()
        self._known, self._uses_photo = known, uses_photo
        self._things = torch.arange(len(known.photos))
        self._log_weights = torch.zeros(len(known.photos))

    @classmethod
    def load(cls, settings: PriorSettings) -> EmpiricalPrior:
        """The set in a file that `save_set` wrote.

        Raises:
            UserError: if no file is named, or it cannot be used.
        """
        if not settings.model:
            raise UserError("the empirical prior needs a set of pictures", where="--prior-model", fix=_FIX)
        return cls(load_set(Path(settings.model)))

    def take_subject(self, subject: Subject) -> None:
        """Weigh the things of the set by their likeness to the photo.

        Raises:
            UserError: for a class that the set does not have.
        """
        known = self._known
        log_weights = torch.zeros(len(known.photos))
        if subject.class_name:
            if subject.class_name not in known.class_names:
                names = ", ".join(known.class_names) or "no classes"
                raise UserError(
                    f"no class '{subject.class_name}' in the set", where="--class-name", fix=f"It has {names}"
                )
            log_weights[known.class_ids != known.class_names.index(subject.class_name)] = -torch.inf
        if self._uses_photo:
            photo = 0.5 * (to_latents(subject.rgb[None] * subject.alpha, subject.alpha[None], self.facts.side) + 1)
            difference = (known.photos.float() / 255 - photo).square().flatten(1).mean(1)
            log_weights = log_weights - difference / (2 * PHOTO_WIDTH**2)
        self._things = (log_weights > log_weights.max() - NEGLIGIBLE).nonzero()[:, 0]
        self._log_weights = log_weights[self._things]

    def encode(self, rgb: Tensor, alpha: Tensor, background: Tensor) -> Tensor:
        """Colour and opacity, -1..1; the background is not needed."""
        return to_latents(rgb, alpha, self.facts.side)

    def decode(self, latents: Tensor) -> Tensor:
        """On white."""
        return from_latents(latents)

    @torch.no_grad()
    def denoise(self, noisy: Tensor, steps: Tensor, views: Views, guidance: float) -> Tensor:
        """The expected noise; guidance changes nothing, the score is exact."""
        found = []
        for i in range(len(noisy)):
            a = self.alphas_cumprod[steps[i]]
            known = self._pictures(float(views.azimuth_deg[i]), float(views.elevation_deg[i]))
            flat = noisy[i].flatten()
            # |noisy - sqrt(a) x|^2 without the part that all x share
            likeness = (2 * a.sqrt() * (known @ flat) - a * known.square().sum(1)) / (2 * (1 - a))
            weights = torch.softmax(likeness + self._log_weights, 0)
            clean = (weights @ known).view_as(noisy[i])
            found.append((noisy[i] - a.sqrt() * clean) / (1 - a).sqrt())
        return torch.stack(found)

    def _pictures(self, azimuth_deg: float, elevation_deg: float) -> Float[Tensor, "N P"]:
        """Latents of the things that count, from the known view nearest to the one asked for."""
        views = self._known.views
        around = (views[:, 0] - azimuth_deg + 180) % 360 - 180
        nearest = int((around.square() + (views[:, 1] - elevation_deg).square()).argmin())
        return self._known.pictures[self._things, nearest].flatten(1).float() / 127.5 - 1


def save_set(known: PictureSet, path: Path) -> None:
    """Write a set."""
    tensors = {name: getattr(known, name).contiguous() for name in _TENSORS}
    tensors["camera"] = torch.tensor([known.distance, known.fov_y_deg], dtype=torch.float64)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {"classes": ",".join(known.class_names)})


def load_set(path: Path) -> PictureSet:
    """Read what `save_set` wrote.

    Raises:
        UserError: if the file is missing or is something else.
    """
    found, notes = read_tensors(path, max_bytes=MAX_BYTES, noun="set of pictures", fix=_FIX)
    try:
        tensors = {name: found[name] for name in _TENSORS}
        distance, fov = found["camera"].tolist()
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"a tensor file, but no set of pictures ({error})", where=path, fix=_FIX) from None
    names = tuple(notes.get("classes", "").split(","))
    return PictureSet(**tensors, class_names=names, distance=distance, fov_y_deg=fov)
