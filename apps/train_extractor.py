"""Train the public extractor of provenance marks on pictures made of nothing; continues where it stopped.

Usage:
    python apps/train_extractor.py --help
    python apps/train_extractor.py --steps 4000 --photos data/sample/images
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import tyro

from nerfstudio_ext.cli.console import Output
from nerfstudio_ext.errors import TrainingFailed, UserError
from nerfstudio_ext.stages.stega.extractor import load_extractor, save_extractor
from nerfstudio_ext.stages.stega.procedural import read_photos
from nerfstudio_ext.stages.stega.train_extractor import ExtractorTraining, train_extractor, training_notes


@dataclass(frozen=True)
class Arguments:
    """What to train, and where to."""

    training: tyro.conf.OmitArgPrefixes[ExtractorTraining] = field(default_factory=ExtractorTraining)
    folder: Path = Path("outputs/extractor")
    """Checkpoints and the finished extractor.safetensors."""
    initial: Path | None = None
    """Extractor to begin with instead of random weights."""
    photos: Path | None = None
    """Folder of photos of which parts are used too; never those the extractor is judged on."""
    threads: int = 0
    """Threads to compute with; 0 leaves the choice to torch."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where to compute."""


def main(arguments: Arguments) -> int:
    """Train, save, and say where the file is."""
    out = Output()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    config, folder = arguments.training, arguments.folder
    try:
        photos = read_photos(arguments.photos) if arguments.photos else []
        initial = load_extractor(arguments.initial) if arguments.initial else None
        with out.progress() as progress:
            extractor = train_extractor(
                config, folder / "checkpoints", initial=initial, photos=photos, device=arguments.device,
                progress=progress,
            )  # fmt: skip
        save_extractor(extractor, folder / "extractor.safetensors", training_notes(config))
    except (UserError, TrainingFailed) as error:
        out.say(f"error: {error}")
        return 2 if isinstance(error, UserError) else 1
    out.say(f"the extractor is {folder / 'extractor.safetensors'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
