"""Long counts of what must never happen, as JSON: `python -m tests.reliability.measure_kills --rounds 200`.

Everything runs the real trainer on a tiny method, with ballast in its state where saving should take its time. Children
are forked from this process, which has one thread, so that two hundred of them take minutes and not hours.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nerfstudio_ext import methods
from nerfstudio_ext.methods.ngp import NgpConfig
from nerfstudio_ext.training import checkpoints as ck
from nerfstudio_ext.training.config import RunConfig, TrainConfig
from nerfstudio_ext.training.run_ending import ending_of
from nerfstudio_ext.training.runs import Run
from nerfstudio_ext.training.trainer import Trainer
from tests.training.test_resume_ngp import ball_scene
from tests.training.test_trainer import quality, spoil
from tests.training.tiny import tiny_trainer

ENDLESS = 10**9
N_NAN, NAN_STEPS = 20, 2000
STEPS_PER_SAVE = TrainConfig().steps_per_save


def ballasted(output: Path, config: TrainConfig, run: Run | None, megabytes: float) -> Trainer:
    """A trainer of the tiny method whose weights hold so many megabytes more."""
    trainer, _ = tiny_trainer(output, config, run=run)
    n = int(megabytes * 1e6 / 4)
    trainer.method.register_buffer("ballast", torch.arange(n, dtype=torch.float32))  # type: ignore[attr-defined]
    return trainer


def forked(work: Callable[[int], None]) -> tuple[int, int]:
    """Run `work` in a child with the end of a pipe to write to; returns its number and the other end."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child:
        os.close(writer)
        return child, reader
    code = 1
    try:
        os.close(reader)
        work(writer)
        code = 0
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 1
    finally:
        os._exit(code)


def all_of(reader: int) -> list[int]:
    """Every number that was written to the pipe until it closed."""
    parts = []
    while part := os.read(reader, 1 << 16):
        parts.append(part)
    os.close(reader)
    return [int(word) for word in b"".join(parts).split()]


# -- SIGKILL at any moment --------------------------------------------------------------------------------------------


def train_and_tell(run_folder: Path, megabytes: float, writer: int) -> None:
    """Go on with a run and say each step that is safe, saving all the time."""
    with Run.open(run_folder) as run:
        trainer = ballasted(run_folder.parent, TrainConfig(max_steps=ENDLESS, steps_per_save=2), run, megabytes)
        trainer.resume()
        save = trainer.save

        def telling() -> bool:
            is_saved = save()
            if is_saved:
                os.write(writer, b"%d\n" % trainer.step)
            return is_saved

        trainer.save = telling  # type: ignore[method-assign]
        trainer.train()


def kill_rounds(folder: Path, rounds: int, *, seed: int = 1, megabytes: float = 2.0) -> dict[str, Any]:
    """Kill a training at random moments; what was said to be saved must be there, whole, every time.

    Args:
        folder: An empty folder.
        rounds: Kills.
        seed: Of the moments.
        megabytes: More of it makes more kills fall into a save.
    """
    rng = random.Random(seed)
    first = ballasted(folder, TrainConfig(max_steps=2), None, megabytes)
    with first.run as run:
        first.train()
    safe, lost, in_save, said_killed, slowest = 2, [], 0, 0, 0.3
    for _ in range(rounds):
        child, reader = forked(lambda writer: train_and_tell(run.path, megabytes, writer))
        time.sleep(rng.uniform(0, slowest))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        said = all_of(reader)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, "training ended before it was killed"
        safe = max([safe, *said])
        slowest = slowest * 1.3 if not said else max(slowest * 0.97, 0.05)  # as often before the first save as after it
        leftovers = [path for path in run.checkpoints.iterdir() if ck.TEMPORARY.fullmatch(path.name)]
        in_save += bool(leftovers)
        said_killed += ending_of(run.path).kind == "killed"
        try:
            newest, skipped = ck.newest_checkpoint(run.checkpoints)
        except ck.UserError as error:
            lost.append(error.line)
            continue
        if newest.step < safe or skipped:
            lost.append(f"step {safe} was safe, step {newest.step} is there; {skipped}")
        safe = max(safe, newest.step)
    with Run.open(run.path) as last:
        left = [path.name for path in last.checkpoints.iterdir() if path.name.startswith(".")]
    return {"kills": rounds, "lost": lost, "during_a_save": in_save, "said_to_be_killed": said_killed,
            "last_step": safe, "left_behind": left}  # fmt: skip


# -- Flipped bits ------------------------------------------------------------------------------------------------------


def bit_flips(folder: Path, n: int, *, seed: int = 2) -> dict[str, Any]:
    """Flip one bit anywhere in a checkpoint, again and again, and load it."""
    rng = random.Random(seed)
    trainer = ballasted(folder, TrainConfig(max_steps=3), None, 0.1)
    with trainer.run:
        trainer.train()
    ((_, checkpoint),) = ck.list_checkpoints(trainer.run.checkpoints)
    good = {name: (checkpoint / name).read_bytes() for name in (ck.WEIGHTS, ck.TRAINER, ck.MANIFEST)}
    names, sizes = list(good), [len(data) for data in good.values()]
    silent, named = [], 0
    for k in range(n):
        # Half of them anywhere by size, half in each file alike: the manifest is small.
        name = rng.choices(names, sizes)[0] if k % 2 else names[k // 2 % 3]
        place = rng.randrange(8 * len(good[name]))
        bad = bytearray(good[name])
        bad[place // 8] ^= 1 << place % 8
        (checkpoint / name).write_bytes(bad)
        try:
            ck.load_checkpoint(checkpoint)
            silent.append(f"{name} bit {place}")
        except ck.CheckpointDamaged as error:
            named += "tensor '" in error.what
        (checkpoint / name).write_bytes(good[name])
    ck.load_checkpoint(checkpoint)
    return {"flips": n, "loaded_silently": silent, "tensor_named": named}


# -- Signals -----------------------------------------------------------------------------------------------------------


def stop_rounds(folder: Path, rounds: int, *, seed: int = 3, megabytes: float = 40.0) -> dict[str, Any]:
    """Ask trainings to stop at random moments; each must save its last step and leave with the right code.

    Args:
        megabytes: State to save; the default method has 40 with its optimiser.
    """
    rng, seconds, faults = random.Random(seed), [], []
    for k in range(rounds):
        number = (signal.SIGINT, signal.SIGTERM)[k % 2]
        output = folder / f"{k:03d}"

        def work(writer: int, output: Path = output) -> None:
            trainer = ballasted(output, TrainConfig(max_steps=ENDLESS, steps_per_save=ENDLESS), None, megabytes)
            trainer.method.before_step = lambda step: os.write(writer, b"%d\n" % step) if step == 1 else None
            with trainer.run:
                result = trainer.train()
            os.write(writer, b"%d\n" % result.steps)
            raise SystemExit(result.exit_code)

        child, reader = forked(work)
        os.read(reader, 2)  # it trains
        time.sleep(rng.uniform(0, 0.2))
        began = time.perf_counter()
        os.kill(child, number)
        _, status = os.waitpid(child, 0)
        seconds.append(time.perf_counter() - began)
        said, code = all_of(reader), os.waitstatus_to_exitcode(status)
        (run,) = output.glob("*/*/*")
        newest, skipped = ck.newest_checkpoint(run / "checkpoints", with_trainer=False)
        kind = ending_of(run).kind
        if code != 128 + number or skipped or newest.step != said[-1] or kind != "signal":
            faults.append(f"{number.name}: code {code}, step {newest.step} of {said}, {kind}")
        for file in newest.folder.iterdir():
            file.unlink()
    p95 = sorted(seconds)[math.ceil(0.95 * rounds) - 1]
    return {"signals": rounds, "faults": faults, "seconds_median": round(statistics.median(seconds), 3),
            "seconds_p95": round(p95, 3), "seconds_max": round(max(seconds), 3),
            "megabytes": megabytes}  # fmt: skip


# -- Steps that are not a number --------------------------------------------------------------------------------------


def nan_runs(folder: Path, n_seeds: int) -> dict[str, Any]:
    """Spoil 20 random steps of a training and compare what it reaches with the training left alone."""
    gaps, skipped = [], []
    for seed in range(n_seeds):
        reached = []
        for steps in (set(), set(random.Random(seed).sample(range(NAN_STEPS), N_NAN))):
            trainer, _ = tiny_trainer(folder / f"{seed}-{len(steps)}", TrainConfig(max_steps=NAN_STEPS), seed=seed)
            trainer.method.spoil = spoil(steps, float("nan"))  # type: ignore[attr-defined]
            with trainer.run:
                result = trainer.train()
            reached.append(quality(trainer))
        skipped.append(result.n_skipped)
        gaps.append(round(reached[1] - reached[0], 4))
    return {"trainings": n_seeds, "spoilt_steps": N_NAN, "skipped": skipped, "psnr_change_db": gaps}


# -- What safety costs ------------------------------------------------------------------------------------------------


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds of something."""
    began = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began[0], time.process_time() - began[1]


def save_cost(folder: Path, n_steps: int = 40) -> dict[str, Any]:
    """What checksums, flushing and reading back cost per checkpoint of the default method, beside the steps between."""
    config = RunConfig(NgpConfig())
    scene = ball_scene(64)
    method = methods.build(config.method, scene.meta, seed=0)
    trainer = Trainer(method, scene, config.train, Run.create(folder, config, scene.meta))
    trainer.stepper.warm_up(config.method.coarse_steps)
    for step in range(n_steps):
        if step == n_steps // 2:
            began = time.process_time()
        trainer.stepper.step(config.method.coarse_steps + step, 0.0)
    step_seconds = (time.process_time() - began) / (n_steps - n_steps // 2)
    state = trainer.stepper.capture()
    parts = {ck.WEIGHTS: state.weights, ck.TRAINER: state.trainer}

    def write_plainly(k: int) -> None:
        for name, tensors in parts.items():
            (folder / f"{k}-{name}").write_bytes(ck.pack_safetensors(ck._packable(tensors)))

    whole = [timed(lambda k=k: ck.save_checkpoint(folder / "saved", k, *parts.values())) for k in range(5)]
    plain = [timed(lambda k=k: write_plainly(k)) for k in range(5)]
    save, busy = (statistics.median(times) for times in zip(*whole, strict=True))
    extra = save - statistics.median(wall for wall, _ in plain)
    extra_busy = busy - statistics.median(busy for _, busy in plain)
    n_bytes = sum(file.stat().st_size for file in (folder / "saved" / ck.checkpoint_name(0)).iterdir())
    trainer.run.close()
    return {"megabytes": round(n_bytes / 1e6, 1), "save_seconds": round(save, 3),
            "of_which_safety": round(extra, 3), "of_that_processor": round(extra_busy, 3),
            "step_seconds": round(step_seconds, 4), "steps_between_saves": STEPS_PER_SAVE,
            "share_percent": round(100 * extra / (STEPS_PER_SAVE * step_seconds), 3)}  # fmt: skip


def main() -> None:
    """Measure what was asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rounds",
        type=int,
        default=200,
        help="kills; flips are five times, signals a quarter, spoilt runs a fortieth of them",
    )
    parser.add_argument("--only", nargs="*", default=["kills", "flips", "signals", "nan", "cost"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    jobs: dict[str, Callable[[Path], dict[str, Any]]] = {
        "kills": lambda folder: kill_rounds(folder, given.rounds),
        "flips": lambda folder: bit_flips(folder, 5 * given.rounds),
        "signals": lambda folder: stop_rounds(folder, max(2, given.rounds // 4)),
        "nan": lambda folder: nan_runs(folder, max(1, given.rounds // 40)),
        "cost": save_cost,
    }
    found: dict[str, Any] = {}
    for name in given.only:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="nsx-measure-") as folder:
            found[name] = jobs[name](Path(folder))
        found[name]["took_seconds"] = round(time.perf_counter() - began, 1)
        print(f"{name}: {found[name]}", file=sys.stderr, flush=True)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
