"""Train GNT across computed scenes, and real captures where some are given; continues where it stopped.

Usage:
    python apps/train_gnt.py --help
    python apps/train_gnt.py --steps 4000 --captures data/sample ../my_capture
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import tyro

from nerfstudio_ext import kernels
from nerfstudio_ext.cli.console import Output
from nerfstudio_ext.errors import TrainingFailed, UserError
from nerfstudio_ext.fields.gnt_weights import save_gnt
from nerfstudio_ext.scenes import load_scene
from nerfstudio_ext.worlds.train_gnt import GntTraining, train_gnt, training_notes


@dataclass(frozen=True)
class Arguments:
    """What to train, and where to."""

    training: tyro.conf.OmitArgPrefixes[GntTraining] = field(default_factory=GntTraining)
    folder: Path = Path("outputs/gnt")
    """Checkpoints, the log, and the finished gnt.safetensors."""
    captures: tuple[Path, ...] = ()
    """Posed captures that take part; never those the result is judged on."""
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
            scenes = [load_scene(path, max_side=config.max_side, progress=progress) for path in arguments.captures]
            model = train_gnt(config, folder, captures=scenes, progress=progress)
        save_gnt(model, folder / "gnt.safetensors", training_notes(config), dtype=torch.float16)
    except (UserError, TrainingFailed) as error:
        out.say(f"error: {error}")
        return 2 if isinstance(error, UserError) else 1
    size = (folder / "gnt.safetensors").stat().st_size / 1e6
    out.say(f"the weights are {folder / 'gnt.safetensors'} ({size:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
