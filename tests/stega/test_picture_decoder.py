"""The decoder of a hidden picture: any size in, its file, and what is hidden: pictures and sounds, there and back."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save as pack_safetensors

from nerfstudio_ext.errors import UserError
from nerfstudio_ext.stages.stega.extractor import Extractor, save_extractor
from nerfstudio_ext.stages.stega.hidden_extraction import extract_hidden, is_sealed_with, seal
from nerfstudio_ext.stages.stega.hidden_payload import hidden_image, hidden_sound, write_hidden
from nerfstudio_ext.stages.stega.keys import Key
from nerfstudio_ext.stages.stega.picture_decoder import (
    N_NULL,
    HiddenForm,
    PictureDecoder,
    is_decoder,
    load_decoder,
    save_decoder,
)
from nerfstudio_ext.stages.stega.scale_search import View
from nerfstudio_ext.stages.stega.sounds import MAX_SAMPLES, RATE, read_wav, sound_of, spectrogram_of, write_wav
from tests.stega.pictures import as_batch, sample_picture


@pytest.fixture
def decoder() -> PictureDecoder:
    torch.manual_seed(0)
    return PictureDecoder(HiddenForm("image")).eval()


@pytest.mark.parametrize("kind, shape", [("image", (3, 64, 64)), ("audio", (1, 128, 128))])
def test_any_size_gives_one_shape(kind: str, shape: tuple[int, ...]) -> None:
    decoder = PictureDecoder(HiddenForm(kind)).eval()
    for size in ((64, 64), (65, 200), (301, 128)):
        with torch.no_grad():
            hidden, logits = decoder(as_batch(sample_picture(*size)))
        assert hidden.shape == (1, *shape) and logits.shape == (1,) and bool(hidden.isfinite().all())


def test_it_is_compact_and_reading_is_nearly_independent_of_size(decoder: PictureDecoder, tmp_path: Path) -> None:
    save_decoder(decoder, tmp_path / "d", {})
    assert (tmp_path / "d").stat().st_size < 4e6
    smooth = as_batch(sample_picture(256, 256))
    half = torch.nn.functional.avg_pool2d(smooth, 2)
    with torch.no_grad():
        (large, _), (small, _), (other, _) = decoder(smooth), decoder(half), decoder(1 - smooth)
    assert (large - small).norm() < 0.2 * (large - other).norm()


def test_the_order_of_pictures_in_a_batch_does_not_matter(decoder: PictureDecoder) -> None:
    batch = as_batch(np.stack([sample_picture(96, 96, seed) for seed in range(3)]))
    with torch.no_grad():
        together, alone = decoder(batch)[0], torch.cat([decoder(p[None])[0] for p in batch])
    assert torch.allclose(together, alone, atol=1e-4)


def test_the_file_returns_what_went_in(decoder: PictureDecoder, tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    decoder.set_null(torch.linspace(3, -3, N_NULL))
    save_decoder(decoder, path, {"width": "64", "height": "40"})
    loaded, notes = load_decoder(path)
    batch = as_batch(sample_picture(64, 64))
    with torch.no_grad():
        assert torch.equal(loaded(batch)[0], decoder(batch)[0]) and torch.equal(loaded(batch)[1], decoder(batch)[1])
    assert not loaded.training and notes["kind"] == "image" and notes["height"] == "40"
    assert is_decoder(path) and loaded.p_value(10) == 1 / 256 and loaded.p_value(-10) == 1
    assert loaded.p_value(0.0) == pytest.approx(0.5, abs=0.01)


def test_damage_is_told_in_one_line(decoder: PictureDecoder, tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    save_decoder(decoder, path, {})
    whole = path.read_bytes()
    for position in (0, 9, len(whole) // 2, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[position] ^= 0x41
        path.write_bytes(damaged)
        with pytest.raises(UserError):
            load_decoder(path)
    path.write_bytes(whole[:-100])
    with pytest.raises(UserError, match="not a tensor file"):
        load_decoder(path)
    path.write_bytes(whole.replace(b'"kind":"image"', b'"kind":"music"'))
    with pytest.raises(UserError, match="its notes make no sense"):
        load_decoder(path)
    path.write_bytes(whole.replace(b'"kind":"image"', b'"kind":"audio"'))
    with pytest.raises(UserError, match="a picture decoder of another shape"):
        load_decoder(path)


def test_other_files_are_told_apart(tmp_path: Path) -> None:
    save_extractor(Extractor(), tmp_path / "e")
    assert not is_decoder(tmp_path / "e")
    with pytest.raises(UserError, match="a tensor file, but not a picture decoder"):
        load_decoder(tmp_path / "e")
    (tmp_path / "x").write_bytes(pack_safetensors({"x": torch.zeros(2)}))
    assert not is_decoder(tmp_path / "x")
    with pytest.raises(UserError, match="no such picture decoder"):
        load_decoder(tmp_path / "missing")


def test_a_seal_holds_for_one_key_one_decoder_and_one_payload(decoder: PictureDecoder) -> None:
    notes = {"payload_sha256": "ab", "seal": seal(Key("k"), decoder, "ab")}
    assert is_sealed_with(Key("k"), decoder, notes) and not is_sealed_with(Key("l"), decoder, notes)
    assert not is_sealed_with(Key("k"), decoder, {**notes, "payload_sha256": "ac"})
    assert not is_sealed_with(Key("k"), decoder, {})
    with torch.no_grad():
        decoder.out.bias += 1
    assert not is_sealed_with(Key("k"), decoder, notes)


class Answers(PictureDecoder):
    """A decoder whose logits are given by the brightness of pictures, and which shows it."""

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = pictures.mean((1, 2, 3))
        return mean[:, None, None, None].expand(-1, 3, 64, 64), 20 * (mean - 0.5)


def grey(*levels: int) -> list[View]:
    return [View(str(level), np.full((64, 80, 3), level, np.uint8)) for level in levels]


def test_logits_are_averaged_before_the_decision_and_nothing_is_stretched() -> None:
    decoder = Answers(HiddenForm("image"))
    decoder.set_null(torch.linspace(-5, 1, N_NULL))
    found = extract_hidden(grey(204, 204, 102), decoder)  # logits 6, 6 and -2
    assert found.present and found.p_value == 1 / 256 and len(found.views) == 3
    assert found.values is not None and torch.allclose(found.values, torch.full((3, 64, 64), 0.8), atol=1e-5)
    unsure = extract_hidden(grey(130), decoder)  # above 0, as some unmarked pictures are
    assert not unsure.present and unsure.values is None and 0.01 < unsure.p_value < 0.3
    assert unsure.to_json()["payload"] is None and unsure.to_json()["p_value_random_keys"] is None
    assert not extract_hidden(grey(204, 20, 20), decoder).present
    with pytest.raises(UserError, match="no picture"):
        extract_hidden([], decoder)
    with pytest.raises(UserError, match="80 x 60 pixels: 64 are needed"):
        extract_hidden([View("small", np.zeros((60, 80, 3), np.uint8))], decoder)


def test_a_decoder_that_was_never_calibrated_finds_nothing(decoder: PictureDecoder) -> None:
    with torch.no_grad():
        decoder.classify.bias += 100
    assert not extract_hidden([View("", sample_picture(64, 64))], decoder).present


def test_pictures_keep_their_proportions(tmp_path: Path) -> None:
    Image.fromarray(sample_picture(100, 200)).save(tmp_path / "wide.png")
    hidden = hidden_image(tmp_path / "wide.png")
    assert hidden.values.shape == (3, 64, 64) and hidden.notes == {"width": "64", "height": "32"}
    path = write_hidden(hidden.form, hidden.values, hidden.notes, tmp_path / "new" / "folder")
    back = np.asarray(Image.open(path)).astype(float)
    expected = np.asarray(Image.fromarray(sample_picture(100, 200)).resize((64, 32), Image.Resampling.BOX)).astype(
        float
    )
    assert back.shape == (32, 64, 3) and np.abs(back - expected).mean() < 4
    with pytest.raises(UserError, match="notes make no sense"):
        write_hidden(hidden.form, hidden.values, {"width": "64000", "height": "2"}, tmp_path)


def voice() -> torch.Tensor:
    """Something like two syllables: a gliding tone with overtones that swells twice."""
    t = torch.arange(7200) / RATE
    pitch = 2 * torch.pi * (140 * t + 30 * t**2)
    tone = sum(torch.sin(n * pitch) / n for n in (1, 2, 3, 5, 8))
    return 0.2 * tone * torch.sin(2 * torch.pi * t / 0.9).abs()


def test_sounds_come_back(tmp_path: Path) -> None:
    values, loudest = spectrogram_of(voice())
    assert values.shape == (1, 128, 128) and float(values.max()) == 1.0 and float(values[..., 120:].max()) == 0.0
    back = sound_of(values, loudest, 7200)
    again, _ = spectrogram_of(back)
    assert len(back) == 7200
    assert float(torch.corrcoef(torch.stack([values.flatten(), again.flatten()]))[0, 1]) > 0.95
    assert float(back.square().mean().sqrt()) == pytest.approx(float(voice().square().mean().sqrt()), rel=0.1)
    black = sound_of(torch.zeros(1, 128, 128), loudest, 7200)
    assert float(black.abs().max()) == 0.0


def test_sounds_survive_what_a_decoder_gets_wrong() -> None:
    """With an error of 30 dB in the picture, the spectrogram's shape stays."""
    values, loudest = spectrogram_of(voice())
    noisy = values + 0.0316 * torch.randn(values.shape, generator=torch.Generator().manual_seed(0))
    again, _ = spectrogram_of(sound_of(noisy, loudest, 7200))
    assert float(torch.corrcoef(torch.stack([values.flatten(), again.flatten()]))[0, 1]) > 0.9


def wav(samples: np.ndarray, rate: int, width: int, channels: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(channels)
        sound.setsampwidth(width)
        sound.setframerate(rate)
        top = 1 << (8 * width - 1)
        whole = np.round(np.repeat(samples, channels) * (top - 1)).astype(np.int64) + (top if width == 1 else 0)
        sound.writeframes(b"".join(int(v).to_bytes(width, "little", signed=width > 1) for v in whole))
    return file.getvalue()


@pytest.mark.parametrize(
    "rate, width, channels", [(8000, 2, 1), (44100, 2, 2), (16000, 1, 1), (11025, 3, 2), (8000, 4, 1)]
)
def test_wav_files(rate: int, width: int, channels: int, tmp_path: Path) -> None:
    """A tone of 440 Hz is one in every format."""
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * rate // 5) / rate)
    (tmp_path / "a.wav").write_bytes(wav(tone, rate, width, channels))
    samples = read_wav(tmp_path / "a.wav").numpy()
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(3200) / 8000)
    assert len(samples) == 3200 and np.abs(samples - expected)[50:-50].max() < 0.02


def test_written_sounds_are_read_again(tmp_path: Path) -> None:
    write_wav(voice(), tmp_path / "a.wav")
    assert torch.allclose(read_wav(tmp_path / "a.wav"), voice(), atol=1e-4)
    hidden = hidden_sound(tmp_path / "a.wav")
    assert write_hidden(hidden.form, hidden.values, hidden.notes, tmp_path / "o").name == "hidden.wav"
    assert read_wav(tmp_path / "o" / "hidden.wav").shape == (7200,)


def test_sounds_that_cannot_be_hidden(tmp_path: Path) -> None:
    def refused(data: bytes, why: str) -> None:
        (tmp_path / "a.wav").write_bytes(data)
        with pytest.raises(UserError, match=why):
            read_wav(tmp_path / "a.wav")

    refused(wav(np.zeros(100), 8000, 2, 1), "silent")
    refused(wav(np.ones(MAX_SAMPLES + 50), 8000, 2, 1), r"1.02 s of sound; up to 1.016 s can be hidden. Cut it")
    refused(wav(np.zeros(0), 8000, 2, 1), "0 s of sound")
    refused(b"RIFF", "not a WAV file")
    refused(b"ID3 and so on", "not a WAV file")
    with pytest.raises(UserError, match="cannot be read"):
        read_wav(tmp_path / "none.wav")
