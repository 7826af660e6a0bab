"""Mark pictures that an extractor has never seen, attack them with real codecs, and print what it still reads.

Usage:
    python apps/judge_extractor.py FOLDER_OF_PICTURES --extractor outputs/extractor/extractor.safetensors
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import tyro
from PIL import Image

from nerfstudio_ext.stages.stega.extractor import load_extractor
from nerfstudio_ext.stages.stega.keys import Key, project, random_keys
from nerfstudio_ext.stages.stega.messages import Layout, Message, layout_named
from nerfstudio_ext.stages.stega.payload import read_code, recognise, write_code
from nerfstudio_ext.stages.stega.picture_marks import logits_after, mark_pictures, read_features

STRANGERS = 200
"""Wrong keys tried on each picture."""


@dataclass(frozen=True)
class Arguments:
    """What to judge, and on what."""

    pictures: tyro.conf.Positional[list[Path]]
    """Folders of pictures; transparent ones are put on white."""
    extractor: Path | None = None
    """Weights; by default those of the package."""
    count: int = 8
    """Pictures taken, spread evenly over all."""
    size: int = 400
    """Side of the square that is cut from the middle after shrinking, pixels."""
    psnr: float = 38.0
    """Fidelity of the marks, dB."""
    code: str = "id-127"
    """How the 48-bit identity is coded; id-48 is uncoded and only recognised."""
    steps: int = 100
    """Steps of optimisation per picture."""


def read_square(path: Path, size: int) -> np.ndarray:
    """[size,size,3] middle of a picture, on white."""
    image = Image.open(path).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    factor = size / min(image.size)
    image = image.resize([round(side * factor) for side in image.size], Image.Resampling.LANCZOS)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def main(arguments: Arguments) -> int:
    """Print one line per attack: bits right, messages found in one picture and in the mean of four."""
    paths = sorted(p for f in arguments.pictures for p in f.iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg"))
    chosen = [paths[i] for i in np.linspace(0, len(paths) - 1, arguments.count).round().astype(int)]
    squares = np.stack([read_square(path, arguments.size) for path in chosen])
    pictures = torch.from_numpy(squares.copy()).permute(0, 3, 1, 2).float() / 255
    extractor, key, message = load_extractor(arguments.extractor), Key("judge"), Message.from_id("0123456789ab")
    layout = layout_named(arguments.code)
    bits = write_code(message, key, layout)
    marks = [
        mark_pictures(extractor, part, key, [bits] * len(part), psnr=arguments.psnr, steps=arguments.steps)
        for part in pictures.split(4)
    ]
    marked = np.concatenate(marks)
    logits = logits_after(extractor, marked, key, layout.n)
    logits["unmarked"] = logits_after(extractor, squares, key, layout.n, {"": ("noise", 0)})[""]
    print(f"{'attack':16}{'bits right':>12}{'found':>9}{'of 4':>9}")
    for name, values in logits.items():
        fours = values[: len(values) // 4 * 4].reshape(-1, 4, layout.n).mean(1)
        right = np.mean((values > 0) == (bits > 0))
        rates = [np.mean([is_found(row, key, message, layout) for row in rows]) for rows in (values, fours)]
        print(f"{name:16}{right:12.1%}{rates[0]:9.0%}{rates[1]:9.0%}")
    strangers, features = random_keys(STRANGERS), read_features(extractor, list(marked))
    agreement = [np.mean((project(strangers, feature, layout.n) > 0) == (bits > 0)) for feature in features]
    print(f"{'wrong keys':16}{np.mean(agreement):12.1%}")
    return 0


def is_found(logits: np.ndarray, key: Key, message: Message, layout: Layout) -> bool:
    """Whether the very message is read; uncoded ones only need to be recognised."""
    read = read_code(logits, key) if layout.is_coded else recognise(logits, key, [message])
    return read is not None and read.message == message


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
