"""What can be hidden as a picture: a small image, or a short sound as its spectrogram; from files, and back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ...errors import UserError
from ...scenes.images import read_image
from .picture_decoder import HiddenForm
from .picture_files import on_white
from .sounds import MAX_SAMPLES, read_wav, sound_of, spectrogram_of, write_wav


@dataclass(frozen=True)
class Hidden:
    """Something to hide.

    Attributes:
        form: Of the picture.
        values: [C,S,S] the picture, 0 to 1.
        notes: What is needed beside it to write the file again.
    """

    form: HiddenForm
    values: Float[Tensor, "C S S"]
    notes: dict[str, str]

    @property
    def digest(self) -> str:
        """SHA-256 of what it is, of the picture in 8 bits, and of the notes."""
        pixels = (self.values * 255).round().to(torch.uint8).numpy().tobytes()
        notes = " ".join(f"{name}={self.notes[name]}" for name in sorted(self.notes))
        return hashlib.sha256(f"{self.form.kind} {notes}\n".encode() + pixels).hexdigest()


def hidden_image(path: Path) -> Hidden:
    """A picture file, averaged down to 64 x 64 pixels; its proportions are noted. Where it is clear, it is white.

    Raises:
        UserError: if it cannot be read.
    """
    form = HiddenForm("image")
    pixels = Image.fromarray(on_white(read_image(path)))
    factor = form.side / max(pixels.size)
    shown = (max(1, round(pixels.width * factor)), max(1, round(pixels.height * factor)))
    way = Image.Resampling.BOX if min(pixels.size) >= form.side else Image.Resampling.BICUBIC
    small = np.asarray(pixels.resize((form.side, form.side), way))
    values = torch.from_numpy(small.copy()).permute(2, 0, 1).float() / 255
    return Hidden(form, values, {"width": str(shown[0]), "height": str(shown[1])})


def hidden_sound(path: Path) -> Hidden:
    """A WAV file of up to a second; kept at 8 kHz as a spectrogram.

    Raises:
        UserError: if it cannot be read, is silent or too long.
    """
    samples = read_wav(path)
    values, loudest = spectrogram_of(samples)
    return Hidden(HiddenForm("audio"), values, {"samples": str(len(samples)), "loudest": repr(loudest)})


def write_hidden(form: HiddenForm, values: Float[Tensor, "C S S"], notes: Mapping[str, str], folder: Path) -> Path:
    """Write what was found as `hidden.png` or `hidden.wav`; values are clipped to 0..1 and never stretched.

    Args:
        form: What it is.
        values: As the decoder gives them.
        notes: Of the decoder.
        folder: Made where it is missing.
    Returns:
        The file.
    Raises:
        UserError: if the notes make no sense or the file cannot be written.
    """
    try:
        if form.kind == "image":
            width, height = (_number(notes, name, form.side) for name in ("width", "height"))
        else:
            n_samples, loudest = _number(notes, "samples", MAX_SAMPLES), float(notes["loudest"])
            if not 0 < loudest < MAX_SAMPLES:
                raise ValueError(loudest)
    except (KeyError, ValueError):
        raise UserError("damaged: the decoder's notes make no sense", fix="Get the file again") from None
    path = folder / ("hidden.png" if form.kind == "image" else "hidden.wav")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if form.kind == "image":
            pixels = (values.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
            Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX).save(path)
        else:
            write_wav(sound_of(values, loudest, n_samples), path)
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=path, fix="Choose another folder") from None
    return path


def _number(notes: Mapping[str, str], name: str, most: int) -> int:
    value = int(notes[name])
    if not 1 <= value <= most:
        raise ValueError(name)
    return value
