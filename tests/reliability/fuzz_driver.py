"""Feeds damaged inputs to the readers, in a child process with limited memory, and counts how each one ends.

python -m tests.reliability.fuzz_driver --count 20000 [--only ply images] [--first 0]

A reader may accept an input or refuse it with a `UserError`. Everything else is a failure: another exception, the end
of the process, more than 5 s for one input. Failing inputs are kept in `fuzz_seeds/READER/`; the tests replay them.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import mmap
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np

from nerfstudio_ext import kernels
from nerfstudio_ext.errors import UserError
from tests.reliability.fuzz_readers import READERS, Reader

SEEDS = Path(__file__).parent / "fuzz_seeds"
SECONDS_PER_INPUT = 5.0
MEMORY_BYTES = 1 << 30
"""Address space that a child may take beyond what its imports have."""
SEED, BEGAN, ACCEPTED, REFUSED, LONGEST = range(5)
"""What parent and child share, in numbers of eight bytes: each is written at once, and never read half written."""


@dataclass
class Tally:
    """How the inputs of one reader ended.

    Attributes:
        name: The reader.
        accepted: Read to the end.
        refused: Refused with an error for the user.
        failures: What else happened: "ValueError at file:line" -> first seed.
        n_failures: How often.
        longest_s: Longest time for one input.
        peak_mb: Largest resident memory of a child beyond what the process held that it was forked from.
        seconds: Wall time.
    """

    name: str
    accepted: int = 0
    refused: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    n_failures: int = 0
    longest_s: float = 0.0
    peak_mb: float = 0.0
    seconds: float = 0.0

    @property
    def line(self) -> str:
        """One line for people."""
        head = f"{self.name:20} {self.accepted + self.refused + self.n_failures:6} inputs in {self.seconds:6.1f} s: "
        counts = f"{self.accepted:6} read, {self.refused:6} refused, {self.n_failures:3} failed"
        return f"{head}{counts}; longest {1000 * self.longest_s:5.0f} ms, peak {self.peak_mb:4.0f} MB"


def fuzz(reader: Reader, first: int, count: int, keep: Path | None = None) -> Tally:
    """Feed `count` damaged inputs to a reader.

    Args:
        reader: Under test.
        first: Seed of the first input; the same seed makes the same input.
        count: How many.
        keep: Folder that gets one failing input for each place of failure; None keeps none.
    """
    tally, began = Tally(reader.name), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nsx-fuzz-") as scratch:
        shared = np.frombuffer(mmap.mmap(-1, 40), np.float64)
        folder, notes = Path(scratch, "work"), Path(scratch, "notes.jsonl")
        folder.mkdir()
        notes.touch()
        originals = reader.originals(folder)
        at, end = first, first + count
        while at < end:
            shared[:] = (at, time.monotonic(), 0, 0, 0)
            held_mb = _resident_mb()
            pid = os.fork()
            if pid == 0:
                _child(reader, folder, originals, range(at, end), shared, notes)
            verdict = _watch(pid, shared, tally, held_mb)
            at = int(shared[SEED]) + 1
            if verdict:
                with notes.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([at - 1, verdict]) + "\n")
                shutil.rmtree(folder)
                folder.mkdir()
                reader.originals(folder)
        for seed, what in map(json.loads, notes.read_text(encoding="utf-8").splitlines()):
            tally.n_failures += 1
            if what not in tally.failures and keep is not None:
                _keep(reader, originals, seed, keep)
            tally.failures.setdefault(what, seed)
    tally.seconds = time.monotonic() - began
    return tally


def damaged(reader: Reader, originals: dict[str, bytes], seed: int) -> tuple[str, bytes, bool]:
    """File, content and whether checksums are made right again, of the input with this seed."""
    rng = Random(f"{reader.name} {seed}")
    name = rng.choice(sorted(originals))
    content = reader.mutation(name)(rng, originals[name])
    return name, content, reader.seal is not None and rng.random() < 0.7


def read_one(reader: Reader, folder: Path, name: str, content: bytes, is_sealed: bool) -> str:
    """Put one input in place and read it: "accepted", "refused", or the failure with its place.

    Anything that Python or NumPy would print on the terminal, beside the one line that is promised, is a failure too.
    """
    (folder / name).write_bytes(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", module=r"PIL\.")  # as `scenes.images` has it
            if is_sealed and reader.seal is not None:
                reader.seal(folder)
            reader.read(folder)
        return "accepted"
    except UserError as refusal:
        return (
            "refused" if refusal.line and len(refusal.line) < 2000 else f"a message of {len(refusal.line)} characters"
        )
    except Exception as fault:  # noqa: BLE001 - that is what is looked for
        frames = [f for f in traceback.extract_tb(fault.__traceback__) if "nerfstudio_ext" in f.filename]
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "nowhere of ours"
        return f"{type(fault).__name__} at {place}"


def _child(
    reader: Reader, folder: Path, originals: dict[str, bytes], seeds: range, shared: np.ndarray, notes: Path
) -> None:
    """Read the inputs of these seeds one after the other; never returns."""
    limit = _virtual_bytes() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.disable()  # a crash is told with its seed
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    for seed in seeds:
        shared[BEGAN], shared[SEED] = time.monotonic(), seed
        name, content, is_sealed = damaged(reader, originals, seed)
        shared[BEGAN] = began = time.monotonic()
        outcome = read_one(reader, folder, name, content, is_sealed)
        shared[LONGEST] = max(shared[LONGEST], time.monotonic() - began)
        shared[ACCEPTED] += outcome == "accepted"
        shared[REFUSED] += outcome == "refused"
        for other, whole in originals.items():
            if other == name or is_sealed:
                (folder / other).write_bytes(whole)
        if outcome not in ("accepted", "refused"):
            with notes.open("a", encoding="utf-8") as file:
                file.write(json.dumps([seed, outcome]) + "\n")
    os._exit(0)


def _watch(pid: int, shared: np.ndarray, tally: Tally, held_mb: float) -> str:
    """Wait for a child; "" when it came to its end, else what ended it."""
    is_late = False
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() - shared[BEGAN] > SECONDS_PER_INPUT:
            is_late = True
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    tally.accepted += int(shared[ACCEPTED])
    tally.refused += int(shared[REFUSED])
    tally.longest_s = max(tally.longest_s, float(shared[LONGEST]))
    tally.peak_mb = max(tally.peak_mb, usage.ru_maxrss / 1024 - held_mb)
    if is_late:
        tally.longest_s = max(tally.longest_s, SECONDS_PER_INPUT)
        return f"more than {SECONDS_PER_INPUT:g} s"
    code = os.waitstatus_to_exitcode(status)
    return f"the process ended with {code}" if code else ""


def _keep(reader: Reader, originals: dict[str, bytes], seed: int, folder: Path) -> None:
    """Write the input of a seed so that it can be read again after the mutations have changed."""
    name, content, is_sealed = damaged(reader, originals, seed)
    target = folder / reader.name / f"{seed}{'-sealed' if is_sealed else ''}--{name.replace('/', '+')}"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def kept_inputs() -> list[Path]:
    """All inputs that failed once."""
    return sorted(path for path in SEEDS.glob("*/*--*") if path.is_file())


def replay(path: Path, folder: Path) -> str:
    """Read one kept input again in `folder`, which must be empty; the outcome as `read_one` has it."""
    reader = next(r for r in READERS if r.name == path.parent.name)
    reader.originals(folder)
    label, _, name = path.name.partition("--")
    return read_one(reader, folder, name.replace("+", "/"), path.read_bytes(), label.endswith("-sealed"))


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def _virtual_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 when anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=20_000, help="inputs per reader (slow readers take fewer)")
    parser.add_argument("--first", type=int, default=0, help="seed of the first input")
    parser.add_argument("--only", nargs="*", default=[], help="names of readers")
    options = parser.parse_args(argv)
    kernels.set_threads(1)  # a fork of two threads hangs
    failed = 0
    for reader in READERS:
        if options.only and reader.name not in options.only:
            continue
        tally = fuzz(reader, options.first, max(1, round(options.count * reader.share)), SEEDS)
        print(tally.line, flush=True)
        for what, seed in tally.failures.items():
            print(f"    seed {seed}: {what}", flush=True)
        failed += tally.n_failures
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
