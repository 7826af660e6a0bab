"""The prior `view`: models that draw an object from another side, given its photo and the way the camera moves.

For converted Zero-1-to-3 models (Liu et al. 2023, arXiv 2303.11328): the photo goes into the denoiser as four further
channels of latents and, through CLIP and a projection together with the camera's movement, as its only token.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ...errors import UserError
from ..lift_clip import normalised
from ..pretrained import ModelNote, ModelSource, library, load_model, load_part, load_tensors
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
from .protocol import PriorFacts, Subject, Views
from .stable_diffusion import guided

if TYPE_CHECKING:
    from . import PriorSettings

DEFAULT_MODEL = "ashawkey/zero123-xl-diffusers"
GUIDANCE = 3.0
TRAINED_FOV_DEG = 49.1
"""Field of view of the renders these models were trained on; distances are compared at it."""
_POSE = 4
_PURPOSE = "the prior 'view'"
_PROJECTION = "clip_camera_projection/diffusion_pytorch_model.safetensors"


class ViewPrior:
    """A view-conditioned diffusion model behind the protocol `Prior`. It knows objects on white only.

    Args:
        networks: By name: unet, vae, image_encoder.
        projection: From CLIP embedding and movement to the denoiser's token.
        preprocessing: Mean and deviation of CLIP's pictures.
        schedule: Noise schedule.
        note: Where it comes from.
        settings: Device, precision, memory.
    """

    def __init__(
        self,
        networks: dict[str, Any],
        projection: nn.Linear,
        preprocessing: tuple[tuple[float, ...], tuple[float, ...]],
        schedule: Any,
        note: ModelNote,
        settings: PriorSettings,
    ) -> None:
        self.device = torch.device(settings.device)
        self.dtype = working_precision(self.device, settings.half_precision)
        unet, vae = networks["unet"], networks["vae"]
        self.facts = PriorFacts(
            name="view",
            licence=note.licence,
            side=int(unet.config.sample_size) * 2 ** (len(vae.config.block_out_channels) - 1),
            guidance=GUIDANCE,
            models={"view-conditioned diffusion": f"{note.name} {note.revision}".strip()},
        )
        self.alphas_cumprod: Float[Tensor, " T"] = schedule.alphas_cumprod.float()
        self._kind = str(schedule.config.prediction_type)
        self._tells_elevation = "stable-zero123" in note.name.lower()
        for network in (*networks.values(), projection):
            network.to(self.dtype)
        weights = weight_bytes(unet, vae)
        low, full = (
            estimated_bytes(weights, self.facts.side, with_decoder=True, low_memory=is_low, dtype=self.dtype)
            for is_low in (True, False)
        )
        self.low_memory = choose_low_memory(settings.low_memory, self.device, (low, full), "view")
        self.estimated_bytes = low if self.low_memory else full
        self._unet, self._projection = unet.to(self.device), projection.to(self.device)
        self._coder = LatentCoder(vae.to(self.device), self.facts.side, self.dtype)
        self._image_encoder = networks["image_encoder"]
        self._preprocessing = preprocessing
        if self.low_memory:
            self._save_memory()

    @classmethod
    def load(cls, settings: PriorSettings) -> ViewPrior:
        """Load the model that the settings name.

        Raises:
            UserError: if a package is missing, or a part of the model cannot be had whole or is of another kind.
        """
        source = ModelSource(settings.model or DEFAULT_MODEL, settings.revision, settings.offline)
        diffusers, transformers = library("diffusers", _PURPOSE), library("transformers", _PURPOSE)
        unet, note = load_model(diffusers.UNet2DConditionModel, source, purpose=_PURPOSE, subfolder="unet")
        if unet.config.in_channels != 2 * unet.config.out_channels:
            raise UserError(
                f"its denoiser takes {unet.config.in_channels} channels; one that sees a photo takes "
                f"{2 * unet.config.out_channels}",
                where=source.name,
                fix="Use a Zero-1-to-3 model in the layout of diffusers; text-to-image models go with --prior sd",
            )
        vae, _ = load_model(diffusers.AutoencoderKL, source, purpose=_PURPOSE, subfolder="vae")
        encoder, _ = load_model(
            transformers.CLIPVisionModelWithProjection, source, purpose=_PURPOSE, subfolder="image_encoder"
        )
        images = load_part(transformers.CLIPImageProcessor, source, purpose=_PURPOSE, subfolder="feature_extractor")
        schedule = load_part(diffusers.DDIMScheduler, source, purpose=_PURPOSE, subfolder="scheduler")
        width = int(encoder.config.projection_dim)
        projection = _projection(load_tensors(source, _PROJECTION, purpose=_PURPOSE), width, source.name)
        networks = {"unet": unet, "vae": vae, "image_encoder": encoder}
        mean_and_deviation = tuple(images.image_mean), tuple(images.image_std)
        return cls(networks, projection, mean_and_deviation, schedule, note, settings)

    @torch.no_grad()
    def take_subject(self, subject: Subject) -> None:
        """Encode the photo, over white, by CLIP and as latents; CLIP then leaves the GPU."""
        encoder = self._image_encoder.to(self.device)
        photo = (subject.rgb * subject.alpha + (1 - subject.alpha))[None].to(self.device)
        pixels = normalised(photo, int(encoder.config.image_size), *self._preprocessing)
        self._embedding: Float[Tensor, "1 E"] = encoder(pixels.to(self.dtype)).image_embeds
        # These models were trained with the photo's latents as the coder gives them, without the usual scaling.
        self._photo: Float[Tensor, "1 C h w"] = self._coder.encode(photo) / self._coder.factor
        self._taken_from = subject.view
        encoder.to("cpu")

    def encode(
        self, rgb: Float[Tensor, "V 3 H W"], alpha: Float[Tensor, "V 1 H W"], background: Float[Tensor, "V 3"]
    ) -> Float[Tensor, "V C h w"]:
        """Pictures over white, whatever the background, as latents; see `Prior`."""
        pictures = (rgb + (1 - alpha)).to(self.device)
        return or_with_less_memory(lambda: self._coder.encode(pictures), self._save_memory, "view").to(rgb.device)

    def decode(self, latents: Float[Tensor, "V C h w"]) -> Float[Tensor, "V 3 H W"]:
        """Latents as pictures; see `Prior`."""
        moved = latents.to(self.device)
        return or_with_less_memory(lambda: self._coder.decode(moved), self._save_memory, "view").to(latents.device)

    @torch.no_grad()
    def denoise(
        self, noisy: Float[Tensor, "V C h w"], steps: Int64[Tensor, " V"], views: Views, guidance: float
    ) -> Float[Tensor, "V C h w"]:
        """The noise the model sees, given the photo and how the camera moved; see `Prior`."""
        moved, times = noisy.to(self.device), steps.to(self.device)
        movement = movements(views, self._taken_from, tells_elevation=self._tells_elevation).to(self._embedding)
        joined = torch.cat([self._embedding.expand(len(views), -1), movement], 1)
        tokens = self._projection(joined)[:, None]
        photos = self._photo.to(moved).expand(len(views), -1, -1, -1)
        # A condition is the photo's latents behind the token: where it is left out, both are zero.
        wanted = torch.cat([tokens.flatten(1), photos.flatten(1).to(tokens)], 1)

        def predict(latents: Tensor, at: Tensor, conditions: Tensor) -> Tensor:
            token, photo = conditions[:, : tokens.shape[2]], conditions[:, tokens.shape[2] :]
            given = torch.cat([latents, photo.reshape(latents.shape)], 1)
            result: Tensor = self._unet(given.to(self.dtype), at, encoder_hidden_states=token[:, None]).sample
            return result.float()

        def both() -> Tensor:
            return guided(predict, moved, times, wanted, torch.zeros_like(wanted), guidance, one_by_one=self.low_memory)

        prediction = or_with_less_memory(both, self._save_memory, "view")
        a = signal_share(self.alphas_cumprod, times, moved)
        return noise_of(prediction, moved, a, self._kind).to(noisy.device)

    def _save_memory(self) -> bool:
        is_new = not self.low_memory
        self.low_memory = True
        self._unet.set_attention_slice("auto")
        self._coder.save_memory()
        return is_new


def movements(views: Views, start: Views, *, tells_elevation: bool) -> Float[Tensor, "V 4"]:
    """How the camera moves from the photo to each view, in the numbers these models were trained with.

    Polar angle (from the vertical, so that it falls when the camera rises), sine and cosine of the azimuth, and the
    distance, all relative to the photo. Lenses differ: a distance counts as the one that shows the object as large
    through the lens of the training renders.

    Args:
        views: Where to.
        start: Where the photo was taken from.
        tells_elevation: Whether the last number is the photo's own polar angle instead (Stable Zero123).
    """
    polar = torch.deg2rad(start.elevation_deg - views.elevation_deg)
    azimuth = torch.deg2rad(views.azimuth_deg - start.azimuth_deg)
    last = _trained_distance(views) - _trained_distance(start)
    if tells_elevation:
        last = torch.deg2rad(90 - start.elevation_deg).expand_as(polar)
    return torch.stack([polar, azimuth.sin(), azimuth.cos(), last], 1)


def _trained_distance(views: Views) -> Float[Tensor, " V"]:
    half = torch.deg2rad(views.fov_y_deg) / 2
    return views.distance * half.tan() / math.tan(math.radians(TRAINED_FOV_DEG) / 2)


def _projection(tensors: dict[str, Tensor], width: int, where: str) -> nn.Linear:
    """The projection of a CLIP embedding and a movement to a token, from its file."""
    weight, bias = tensors.get("proj.weight"), tensors.get("proj.bias")
    if weight is None or bias is None or weight.shape[1] != width + _POSE or bias.shape[0] != weight.shape[0]:
        raise UserError(
            f"its camera projection is not one of {width} + {_POSE} numbers", where=where,
            fix="Use a Zero-1-to-3 model in the layout of diffusers",
        )  # fmt: skip
    projection = nn.Linear(weight.shape[1], weight.shape[0])
    projection.load_state_dict({"weight": weight, "bias": bias})
    return projection.eval().requires_grad_(False)
