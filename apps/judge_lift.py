"""Lift drawn things from their fronts with every prior and every control, and compare all sides with the truth.

Each line of the result is one thing under one prior; what is there already is not done again.

Usage:
    python apps/judge_lift.py --runs exact none class wrong shuffled --count 24
    python apps/judge_lift.py --runs tiny unknown-none --count 24 --side 32
"""

import dataclasses
import json
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import tyro
from PIL import Image

from nerfstudio_ext import kernels
from nerfstudio_ext.methods.lift_config import LiftConfig
from nerfstudio_ext.methods.priors import Prior, PriorSettings, make_prior
from nerfstudio_ext.methods.priors.empirical import EmpiricalPrior, PictureSet, load_set, save_set
from nerfstudio_ext.methods.priors.null import NullPrior
from nerfstudio_ext.worlds.lift_trials import Findings, compare, lift, photo_of, render_view
from nerfstudio_ext.worlds.picture_sets import make_set, shuffled
from nerfstudio_ext.worlds.things import CLASSES, Thing, draw_thing, photograph

RUNS = {
    "exact": "exact prior that looks at the photo",
    "class": "exact prior that is told the class only",
    "none": "no prior",
    "wrong": "control: exact prior, told a wrong class",
    "shuffled": "control: exact prior of pictures under wrong azimuths",
    "tiny": "shipped prior, things of sizes and hues it never saw",
    "unknown-none": "no prior, the same things",
}
"""What is compared; the last two are on things from the ranges that training left out."""
HELD_OUT_SEED = 1 << 30
SHEET_ROWS = 8
"""Things in the contact sheet."""


@dataclass(frozen=True)
class Arguments:
    """What to judge."""

    runs: tuple[str, ...] = ("exact", "none", "class", "wrong", "shuffled")
    """Any of exact, class, none, wrong, shuffled, tiny, unknown-none."""
    count: int = 24
    """Things, the classes in turn."""
    side: int = 32
    """Side of all pictures, pixels."""
    folder: Path = Path("outputs/judge_lift")
    """Results, one JSON line each, the set of the exact prior, and a contact sheet of every run."""
    tiny: str = ""
    """Weights of the small prior; by default those of the package."""
    lift: LiftConfig = field(default_factory=LiftConfig)
    """Settings of lifting; its prior and side are set here."""
    threads: int = 1
    """Threads to compute with."""


@dataclass
class Judge:
    """Lifts things under one prior after another."""

    arguments: Arguments

    @cached_property
    def known(self) -> PictureSet:
        """The set of the exact prior; made once."""
        path = self.arguments.folder / f"set{self.arguments.side}.safetensors"
        if not path.exists():
            save_set(make_set(self.arguments.side), path)
        return load_set(path)

    def prior(self, run: str) -> Prior:
        """The prior of a run."""
        if run == "tiny":
            return make_prior(PriorSettings("tiny", self.arguments.tiny))
        if run.endswith("none"):
            return NullPrior()
        known = shuffled(self.known) if run == "shuffled" else self.known
        return EmpiricalPrior(known, uses_photo=run in ("exact", "shuffled"))

    def thing(self, run: str, number: int) -> Thing:
        """Thing of a number: for the shipped prior from what training left out."""
        is_unknown = run in ("tiny", "unknown-none")
        rng = np.random.default_rng((HELD_OUT_SEED, number))
        return draw_thing(rng, CLASSES[number % len(CLASSES)], is_held_out=is_unknown)

    def judge(self, run: str, number: int, prior: Prior) -> tuple[Findings, np.ndarray]:
        """Findings, and a strip: truth above, lifted below, from the front, the side and behind."""
        side, thing = self.arguments.side, self.thing(run, number)
        named = {"class": thing.class_name, "wrong": CLASSES[(number + 3) % len(CLASSES)]}.get(run, "")
        config = dataclasses.replace(self.arguments.lift, side=side)
        method, seconds, cpu_seconds = lift(photo_of(thing, side, named), config, prior)
        views = ((0.0, 15.0), (75.0, 20.0), (165.0, 20.0), (195.0, 20.0))
        rows = [
            np.concatenate([photograph(thing, *view, side)[0] for view in views], 1),
            np.concatenate([render_view(method, *view, side) for view in views], 1),
        ]
        strip = np.concatenate(rows)
        on_white = (255 * (strip[..., :3] + 1 - strip[..., 3:])).clip(0, 255).round().astype(np.uint8)
        return compare(thing, method, side, seconds, cpu_seconds), on_white


def main(arguments: Arguments) -> int:
    """Judge what is missing, and print the means of all."""
    kernels.set_threads(arguments.threads)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    lines, judge = arguments.folder / "findings.jsonl", Judge(arguments)
    for run in arguments.runs:
        done, prior = read_lines(lines, run, arguments), None
        for number in range(arguments.count):
            if number in done:
                continue
            prior = prior or judge.prior(run)
            findings, strip = judge.judge(run, number, prior)
            strips = arguments.folder / f"{run}-{arguments.side}"
            strips.mkdir(exist_ok=True)
            Image.fromarray(strip).save(strips / f"{number:03d}.png")
            record = {"run": run, "number": number, "side": arguments.side, "lift": str(arguments.lift.settled())}
            record |= {name: round(value, 3) for name, value in dataclasses.asdict(findings).items()}
            with lines.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
    summary = {run: summarise(read_lines(lines, run, arguments)) for run in arguments.runs}
    (arguments.folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    write_sheet(arguments)
    for run, means in summary.items():
        print(f"{RUNS[run]}: " + ", ".join(f"{name} {value:g}" for name, value in means.items()))
    return 0


def read_lines(path: Path, run: str, arguments: Arguments) -> dict[int, dict[str, float]]:
    """Findings of a run with these settings by number."""
    if not path.exists():
        return {}
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    wanted = {"run": run, "side": arguments.side, "lift": str(arguments.lift.settled())}
    return {r["number"]: r for r in records if {name: r[name] for name in wanted} == wanted}


def write_sheet(arguments: Arguments) -> None:
    """One row per thing: the truth, then every run, each from the front, the side and twice from behind."""
    rows = []
    for number in range(min(arguments.count, SHEET_ROWS)):
        paths = [arguments.folder / f"{run}-{arguments.side}" / f"{number:03d}.png" for run in arguments.runs]
        strips = [np.asarray(Image.open(path)) for path in paths if path.exists()]
        if len(strips) == len(paths):
            truth = strips[0][: arguments.side]
            rows.append(np.concatenate([truth, *(strip[arguments.side :] for strip in strips)], 1))
    if rows:
        sheet = Image.fromarray(np.concatenate(rows))
        zoom = max(1, 48 // arguments.side)
        sheet = sheet.resize((sheet.width * zoom, sheet.height * zoom), Image.Resampling.NEAREST)
        sheet.save(arguments.folder / f"sheet-{'-'.join(arguments.runs)}-{arguments.side}.png")


def summarise(records: dict[int, dict[str, float]]) -> dict[str, float]:
    """Means over things."""
    names = [field.name for field in dataclasses.fields(Findings)]
    rows = list(records.values())
    return {"things": len(rows), **{n: round(float(np.mean([row[n] for row in rows])), 3) for n in names if rows}}


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
