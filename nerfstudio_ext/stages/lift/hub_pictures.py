"""What hub models see in a photo: where its object is, and how far things are."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ...errors import UserError
from ...methods.pretrained import ModelNote, ModelSource, library, load_model, load_part

DEPTH_MODEL = "depth-anything/Depth-Anything-V2-Small-hf"
WORD_MASK_MODEL, BOX_MASK_MODEL = "CIDAS/clipseg-rd64-refined", "facebook/sam-vit-base"
"""The one finds what a text names, the other the thing in a box; both free for any use."""
_BOX_BORDER = 0.05
"""Width of the border that the box leaves out, as a share of the photo: objects are seldom at the very edge."""
_METRIC_KINDS = ("zoedepth", "glpn", "prompt_depth_anything")
"""Models whose output is a distance; of the others only those that say so."""


@dataclass(frozen=True)
class HubOptions:
    """Where models may come from and where they run."""

    revision: str = ""
    offline: bool = False
    device: str = "cpu"


@dataclass(frozen=True)
class Seen:
    """What a model saw.

    Attributes:
        values: At the photo's size: a mask 0..1, or distances of any scale and offset, larger is farther.
        note: The model.
        is_metric: Whether distances are in metres.
    """

    values: Float[np.ndarray, "H W"]
    note: ModelNote
    is_metric: bool = field(default=False)


def see_depth(rgb: UInt8[np.ndarray, "H W 3"], name: str, options: HubOptions) -> Seen:
    """Distances in a photo by a monocular depth model.

    Most models give nearness (inverse distance up to scale and shift): it is negated, which keeps the order.

    Args:
        rgb: The whole photo; models judge depth by its surroundings.
        name: Hub id or folder.
        options: How to get it.
    Raises:
        UserError: if a package is missing or the model cannot be had whole.
    """
    purpose = "depth"
    transformers = library("transformers", purpose)
    source = ModelSource(name, options.revision, options.offline)
    model, note = load_model(transformers.AutoModelForDepthEstimation, source, purpose=purpose)
    images = load_part(transformers.AutoImageProcessor, source, purpose=purpose)
    inputs = images(images=Image.fromarray(rgb), return_tensors="pt").to(options.device)
    with torch.no_grad():
        predicted = model.to(options.device)(**inputs).predicted_depth
    values = _at_size(predicted.reshape(1, 1, *predicted.shape[-2:]), rgb)
    is_metric = gives_distance(model.config)
    return Seen(values if is_metric else -values, note, is_metric)


def gives_distance(config: object) -> bool:
    """Whether a depth model's output grows with distance, by its config; nearness otherwise."""
    kind = str(getattr(config, "model_type", ""))
    return kind in _METRIC_KINDS or getattr(config, "depth_estimation_type", "relative") == "metric"


def see_mask(rgb: UInt8[np.ndarray, "H W 3"], name: str, words: str, options: HubOptions) -> Seen:
    """Where the object is, by CLIPSeg (what the words name) or SAM (the thing in a box inside the photo's border).

    Args:
        rgb: The photo.
        name: Hub id or folder.
        words: What to look for; SAM needs none.
        options: How to get it.
    Raises:
        UserError: if a package is missing, the model cannot be had whole, or it is of another kind.
    """
    purpose = "mask"
    transformers = library("transformers", purpose)
    source = ModelSource(name, options.revision, options.offline)
    kind = str(load_part(transformers.AutoConfig, source, purpose=purpose).model_type)
    picture = Image.fromarray(rgb)
    if kind == "clipseg":
        if not words:
            raise UserError(
                "this model must be told what to look for", where=f"mask: {name}", fix='Give --text "a blue chair"'
            )
        model, note = load_model(transformers.CLIPSegForImageSegmentation, source, purpose=purpose)
        processor = load_part(transformers.CLIPSegProcessor, source, purpose=purpose)
        inputs = processor(text=[words], images=[picture], padding=True, return_tensors="pt").to(options.device)
        with torch.no_grad():
            logits = model.to(options.device)(**inputs).logits
        return Seen(_at_size(logits.reshape(1, 1, *logits.shape[-2:]).sigmoid(), rgb).clip(0, 1), note)
    if kind == "sam":
        model, note = load_model(transformers.SamModel, source, purpose=purpose)
        processor = load_part(transformers.SamProcessor, source, purpose=purpose)
        return Seen(_mask_in_box(model.to(options.device), processor, picture, options.device), note)
    raise UserError(
        f"models of kind '{kind}' are not used for masks", where=f"mask: {name}",
        fix=f"Use CLIPSeg ({WORD_MASK_MODEL}), SAM ({BOX_MASK_MODEL}), or give a mask with --mask",
    )  # fmt: skip


@torch.no_grad()
def _mask_in_box(model: object, processor: object, picture: Image.Image, device: str) -> Float[np.ndarray, "H W"]:
    width, height = picture.size
    left, top = width * _BOX_BORDER, height * _BOX_BORDER
    box = [[[left, top, width - left, height - top]]]
    inputs = processor(images=picture, input_boxes=box, return_tensors="pt").to(device)  # type: ignore[operator]
    sizes, reshaped = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")
    found = model(**inputs)  # type: ignore[operator]
    masks = processor.post_process_masks(found.pred_masks.cpu(), sizes.cpu(), reshaped.cpu())[0]  # type: ignore[attr-defined]
    best = int(found.iou_scores.reshape(-1).argmax())
    chosen: np.ndarray = masks.reshape(-1, height, width)[best].float().numpy()
    return chosen


def _at_size(values: Float[Tensor, "1 1 h w"], rgb: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W"]:
    resized = functional.interpolate(values.float().cpu(), rgb.shape[:2], mode="bicubic", align_corners=False)
    found: np.ndarray = resized[0, 0].numpy()
    return found
