"""The small prior of our own: a network trained on drawn things (`apps/train_lift_prior.py`), shipped with the package.

It knows eight kinds of simple things and one rule about their backs. It shows that lifting follows a prior, and needs
neither a download nor a GPU; it is no substitute for a prior that has seen the world.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save as pack_safetensors
from torch import Tensor

from ...errors import UserError
from ...tensor_files import read_tensors
from .denoiser import CHANNELS, Conditions, DenoiserSize, PoseDenoiser, cosine_alphas
from .pictures import from_latents, to_latents
from .protocol import PriorFacts, Subject, Views

if TYPE_CHECKING:
    from . import PriorSettings

SHIPPED = Path(__file__).parent / "tiny.safetensors"
FORMAT, FORMAT_VERSION = "nerfstudio-ext pose denoiser", 1
LICENCE = "Apache-2.0, trained for this project on computed pictures"
MAX_BYTES = 1 << 28
DISTANCE, FOV_Y_DEG = 1.8, 40.0
"""The only lens that the drawn things are photographed with."""


class TinyPrior:
    """A `Prior` over a trained `PoseDenoiser`.

    Args:
        model: The network.
        class_names: Names of its classes, in order.
        uses_photo: Whether it looks at the subject's photo; without, class and view are all it goes by.
    """

    def __init__(self, model: PoseDenoiser, class_names: tuple[str, ...], *, uses_photo: bool = True) -> None:
        n = sum(p.numel() for p in model.parameters())
        self.facts = PriorFacts(
            "tiny", LICENCE, model.size.side, guidance=1.0, distance=DISTANCE, fov_y_deg=FOV_Y_DEG,
            models={"denoiser": f"{model.size.side} px, {n / 1e6:.1f} M weights"},
        )  # fmt: skip
        self.alphas_cumprod = cosine_alphas()
        self._model, self._class_names, self._uses_photo = model.eval(), class_names, uses_photo
        self._photo = torch.zeros(4, model.size.side, model.size.side)
        self._class_id, self._elevation = model.size.n_classes, 0.0

    @classmethod
    def load(cls, settings: PriorSettings) -> TinyPrior:
        """The shipped network, or the one in a file that the training script wrote.

        Raises:
            UserError: if the file is missing or is something else.
        """
        return cls(*load_denoiser(Path(settings.model) if settings.model else SHIPPED))

    def take_subject(self, subject: Subject) -> None:
        """Keep photo, its elevation and the class.

        Raises:
            UserError: for a class that the network does not know.
        """
        if subject.class_name and subject.class_name not in self._class_names:
            fix = f"It knows {', '.join(self._class_names)}; leave the class out to go by the photo alone"
            raise UserError(f"the tiny prior knows no class '{subject.class_name}'", where="--class-name", fix=fix)
        self._class_id = self._model.size.n_classes
        if subject.class_name:
            self._class_id = self._class_names.index(subject.class_name)
        self._photo = to_latents(subject.rgb[None] * subject.alpha, subject.alpha[None], self.facts.side)[0]
        self._elevation = float(subject.view.elevation_deg[0])

    def encode(self, rgb: Tensor, alpha: Tensor, background: Tensor) -> Tensor:
        """Colour and opacity, -1..1; the background is not needed."""
        return to_latents(rgb, alpha, self.facts.side)

    def decode(self, latents: Tensor) -> Tensor:
        """On white."""
        return from_latents(latents)

    @torch.no_grad()
    def denoise(self, noisy: Tensor, steps: Tensor, views: Views, guidance: float) -> Tensor:
        """The network's noise; without conditions it sees the view alone."""
        alphas = self.alphas_cumprod[steps]
        v = self._model(noisy, alphas, self._given(views, is_told=True))
        if guidance != 1:
            without = self._model(noisy, alphas, self._given(views, is_told=False))
            v = without + guidance * (v - without)
        a = alphas[:, None, None, None]
        return (1 - a).sqrt() * noisy + a.sqrt() * v

    def _given(self, views: Views, *, is_told: bool) -> Conditions:
        n, has_photo = len(views), is_told and self._uses_photo
        photo = self._photo.expand(n, -1, -1, -1) * float(has_photo)
        class_id = self._class_id if is_told else self._model.size.n_classes
        elevations = torch.full((n,), self._elevation)
        view_deg = torch.stack([views.azimuth_deg, views.elevation_deg, elevations], 1)
        return Conditions(photo, torch.full((n,), has_photo), torch.full((n,), class_id), view_deg)


def save_denoiser(model: PoseDenoiser, class_names: tuple[str, ...], path: Path, about: Mapping[str, str]) -> None:
    """Write a network in 16 bits; replaces the file when it exists."""
    tensors = {name: value.detach().cpu().half().contiguous() for name, value in model.state_dict().items()}
    size = {name: str(value) for name, value in asdict(model.size).items()}
    notes = {**about, **size, "classes": ",".join(class_names), "format": FORMAT, "format_version": str(FORMAT_VERSION)}
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(pack_safetensors(tensors, notes))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_denoiser(path: Path) -> tuple[PoseDenoiser, tuple[str, ...]]:
    """Read a network and the names of its classes.

    Raises:
        UserError: if the file is missing, too large, damaged, or something else.
    """
    fix = "Train it with `python apps/train_lift_prior.py` and name its file with --prior-model"
    tensors, notes = read_tensors(path, max_bytes=MAX_BYTES, noun="file of weights", fix=fix)
    if notes.get("format") != FORMAT or notes.get("format_version") != str(FORMAT_VERSION):
        raise UserError("a tensor file, but no small prior of this version", where=path, fix=fix)
    try:
        size = DenoiserSize(**{field.name: int(notes[field.name]) for field in fields(DenoiserSize)})
        if not _is_backed(size, tensors):
            raise ValueError("a size beyond its tensors")
        model = PoseDenoiser(size)
        model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except (KeyError, ValueError, RuntimeError, ZeroDivisionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"its tensors and its notes do not fit ({reason})", where=path, fix=fix) from None
    return model, tuple(notes.get("classes", "").split(","))


def _is_backed(size: DenoiserSize, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the large tensors of a size are there: notes alone must not decide how much memory is taken."""
    width, n_places = size.width, (size.side // size.patch) ** 2
    expected = {
        "places": (n_places, width),
        "classes.weight": (size.n_classes + 1, width),
        "patches.weight": (width, CHANNELS * size.patch**2),
    }
    expected |= {f"layers.{i}.queries.weight": (3 * width, width) for i in range(min(size.depth, len(tensors) + 1))}
    return all(name in tensors and tensors[name].shape == shape for name, shape in expected.items())
