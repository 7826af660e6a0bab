"""Train the small prior for lifting on drawn things; continues where it stopped. Or write the set of the exact prior.

Usage:
    python apps/train_lift_prior.py
    python apps/train_lift_prior.py --side 64 --width 512 --n-heads 8 --depth 12 --things 20000 --views 12 --batch 256
    python apps/train_lift_prior.py --write-set outputs/things.safetensors
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tyro

from nerfstudio_ext import kernels
from nerfstudio_ext.cli.console import Output
from nerfstudio_ext.errors import TrainingFailed, UserError
from nerfstudio_ext.methods.priors.empirical import save_set
from nerfstudio_ext.methods.priors.tiny import save_denoiser
from nerfstudio_ext.worlds.picture_sets import make_set
from nerfstudio_ext.worlds.things import CLASSES
from nerfstudio_ext.worlds.train_lift_prior import PriorTraining, train_lift_prior, training_notes


@dataclass(frozen=True)
class Arguments:
    """What to train, and where to."""

    training: tyro.conf.OmitArgPrefixes[PriorTraining] = field(default_factory=PriorTraining)
    folder: Path = Path("outputs/lift_prior")
    """Checkpoints, the log, and the finished tiny.safetensors."""
    write_set: Path | None = None
    """Train nothing: write the pictures of things that `--prior empirical --prior-model FILE` takes."""
    threads: int = 0
    """Threads to compute with; 0 leaves the choice to torch."""


def main(arguments: Arguments) -> int:
    """Train, save in 16 bits, and say where the file is."""
    out = Output()
    if arguments.threads:
        kernels.set_threads(arguments.threads)
    config, folder = arguments.training, arguments.folder
    try:
        with out.progress() as progress:
            if arguments.write_set is not None:
                save_set(make_set(config.side, progress=progress), arguments.write_set)
                return 0
            model = train_lift_prior(config, folder, progress=progress)
        save_denoiser(model, CLASSES, folder / "tiny.safetensors", training_notes(config))
    except (UserError, TrainingFailed) as error:
        out.say(f"error: {error}")
        return 2 if isinstance(error, UserError) else 1
    size = (folder / "tiny.safetensors").stat().st_size / 1e6
    out.say(f"the weights are {folder / 'tiny.safetensors'} ({size:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
