"""Short sounds as pictures: WAV files to logarithmic spectrograms and back.

A spectrogram forgives what a decoder gets wrong: an error of three hundredths of its range is 1.8 dB somewhere, where
the same error in the samples would be noise louder than most of the sound. Phases are not kept; they are found again
from the overlap of the windows.

Source: Perraudin, Balazs, Sondergaard 2013, A fast Griffin-Lim algorithm, with their momentum of 0.99.
"""

from __future__ import annotations

import io
import math
import wave
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ...errors import UserError

RATE = 8000
"""Samples per second that are kept: speech on a telephone."""
SIDE = 128
_WINDOW, _HOP = 256, 64
MAX_SAMPLES = (SIDE - 1) * _HOP
"""What `SIDE` windows cover: 1.016 s."""
RANGE_DB = 60.0
"""Below the loudest value everything is silence, which is black."""
_ITERATIONS, _MOMENTUM = 100, 0.99
_MAX_WAV_SECONDS = 60


def read_wav(path: Path) -> Float[Tensor, " N"]:
    """Samples of a PCM WAV file, -1 to 1, mono at `RATE`.

    Raises:
        UserError: if the file cannot be read, is no PCM WAV file, is silent, or holds more than `MAX_SAMPLES`.
    """
    try:
        with path.open("rb") as file, wave.open(file) as sound:
            rate, n_samples, channels, width = (
                sound.getframerate(), sound.getnframes(), sound.getnchannels(), sound.getsampwidth()
            )  # fmt: skip
            data = sound.readframes(min(n_samples, _MAX_WAV_SECONDS * rate))
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=path, fix="Check the path") from None
    except (wave.Error, EOFError, ValueError, RuntimeError, ZeroDivisionError):
        raise UserError("not a WAV file with PCM samples, or damaged", where=path, fix="Convert it to WAV") from None
    samples = _decoded(data[: len(data) // (channels * width) * channels * width], width).reshape(-1, channels).mean(1)
    seconds = len(samples) / rate
    if not 0 < round(seconds * RATE) <= MAX_SAMPLES:
        fix = "Cut it to a second" if seconds > 0 else "Use another file"
        raise UserError(f"{seconds:.3g} s of sound; up to {MAX_SAMPLES / RATE} s can be hidden", where=path, fix=fix)
    kept = _resampled(samples, round(seconds * RATE))
    if float(np.abs(kept).max()) < 1e-4:
        raise UserError("the sound is silent", where=path, fix="Use another file")
    return torch.from_numpy(kept.astype(np.float32))


def write_wav(samples: Float[Tensor, " N"], path: Path) -> None:
    """Write samples, -1 to 1, as a mono 16-bit file; what is louder is clipped."""
    values = (samples.clamp(-1, 1) * 32767).round().to(torch.int16).numpy().astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(RATE)
        sound.writeframes(values.tobytes())
    path.write_bytes(file.getvalue())


def spectrogram_of(samples: Float[Tensor, " N"]) -> tuple[Float[Tensor, "1 S S"], float]:
    """Logarithmic magnitudes over 60 dB and the loudest magnitude; frequencies rise from top to bottom.

    Args:
        samples: Up to `MAX_SAMPLES`; silence is added behind them.
    Returns:
        Values 0 (silent) to 1 (the loudest), and the magnitude that 1 stands for. The constant part is left out.
    """
    padded = torch.nn.functional.pad(samples, (0, MAX_SAMPLES - len(samples)))
    magnitudes = _analysed(padded).abs()[1:]
    loudest = float(magnitudes.max())
    return (1 + 20 * torch.log10(magnitudes / loudest + 1e-12) / RANGE_DB).clamp(0, 1)[None], loudest


def sound_of(spectrogram: Float[Tensor, "1 S S"], loudest: float, n_samples: int) -> Float[Tensor, " N"]:
    """Samples whose spectrogram is near the given one."""
    levels = spectrogram[0].float().clamp(0, 1)
    magnitudes = loudest * 10 ** ((levels - 1) * RANGE_DB / 20) * (levels > 0)
    magnitudes = torch.nn.functional.pad(magnitudes, (0, 0, 1, 0))
    generator = torch.Generator().manual_seed(0)
    phases = torch.polar(torch.ones(()), 2 * math.pi * torch.rand(magnitudes.shape, generator=generator))
    before = torch.zeros_like(phases)
    for _ in range(_ITERATIONS):
        consistent = _analysed(_synthesised(magnitudes * phases))
        pushed = consistent + _MOMENTUM * (consistent - before)
        phases = pushed / pushed.abs().clamp_min(1e-12)
        before = consistent
    return _synthesised(magnitudes * phases)[:n_samples]


def _analysed(samples: Tensor) -> Tensor:
    return torch.stft(samples, _WINDOW, _HOP, window=torch.hann_window(_WINDOW), return_complex=True)


def _synthesised(spectrum: Tensor) -> Tensor:
    return torch.istft(spectrum, _WINDOW, _HOP, window=torch.hann_window(_WINDOW), length=MAX_SAMPLES)


def _decoded(data: bytes, width: int) -> NDArray[np.float64]:
    """Samples -1 to 1 of little-endian integers of 1 (unsigned) to 4 bytes."""
    if width == 1:
        return (np.frombuffer(data, np.uint8).astype(np.float64) - 128) / 128
    columns = np.frombuffer(data, np.uint8).reshape(-1, width).astype(np.int64)
    values = (columns << (8 * np.arange(width))).sum(1)
    top = 1 << (8 * width - 1)
    return ((values ^ top) - top) / float(top)


def _resampled(samples: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """As many samples over the same time, without the frequencies that they cannot hold."""
    if count == len(samples):
        return samples
    spectrum = np.fft.rfft(samples)
    kept = np.zeros(count // 2 + 1, complex)
    n = min(len(kept), len(spectrum))
    kept[:n] = spectrum[:n]
    return np.fft.irfft(kept, count) * (count / len(samples))
