"""Damaged inputs end in a result or in one line for the user: no other exception, crash or hang, no waste of memory.

A short seeded run per reader; `make fuzz` takes 20,000 inputs each. What failed once lies in `fuzz_seeds/`.
"""

from __future__ import annotations

import time
from pathlib import Path
from random import Random

import pytest

from nerfstudio_ext.errors import UserError
from tests.reliability import fuzz_driver
from tests.reliability.cases import holds
from tests.reliability.fuzz_driver import damaged, fuzz, kept_inputs, replay
from tests.reliability.fuzz_readers import READERS, Reader


@holds("D9")
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_damaged_inputs_are_read_or_refused(reader: Reader) -> None:
    tally = fuzz(reader, 0, reader.short)
    assert not tally.failures, "\n".join(f"seed {seed}: {what}" for what, seed in tally.failures.items())
    assert tally.accepted + tally.refused == reader.short
    assert tally.refused > 0, "nothing was damaged"
    assert tally.peak_mb < 1024


@pytest.mark.parametrize("path", kept_inputs(), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_inputs_that_failed_once_do_not_again(path: Path, tmp_path: Path) -> None:
    assert replay(path, tmp_path) in ("accepted", "refused")


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_whole_inputs_are_read(reader: Reader, tmp_path: Path) -> None:
    """Else the damaged ones would all be refused for the same reason, and nothing behind it would be reached."""
    for name, content in reader.originals(tmp_path).items():
        (tmp_path / name).write_bytes(content)
        if reader.name in ("video", "video_head") or reader.name.startswith("viewer"):
            continue  # stand-ins: heads without a film, a playlist, requests that are meant to be refused
        reader.read(tmp_path)


def _reader(read) -> Reader:
    def make(folder: Path) -> tuple[str, ...]:
        (folder / "a.bin").write_bytes(bytes(64))
        return ("a.bin",)

    return Reader("made_up", make, read)


def test_the_same_seed_makes_the_same_input_and_another_seed_another(tmp_path: Path) -> None:
    originals = READERS[0].originals(tmp_path)
    made = [damaged(READERS[0], originals, seed) for seed in range(40)]
    assert made == [damaged(READERS[0], originals, seed) for seed in range(40)]
    assert len({content for _, content, _ in made}) > 30


def test_every_way_to_fail_is_found_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver can fail: an exception, a crash, a hang and a waste of memory are each seen, and the rest goes on."""
    monkeypatch.setattr(fuzz_driver, "SECONDS_PER_INPUT", 0.3)

    def read(folder: Path) -> None:
        act = Random((folder / "a.bin").read_bytes()).randrange(30)
        if act == 0:
            raise KeyError("lost")
        if act == 1:
            import os

            os.abort()
        if act == 2:
            time.sleep(60)
        if act == 3:
            bytearray(3 << 30)
        if act > 15:
            raise UserError("no")

    tally = fuzz(_reader(read), 0, 120, tmp_path)
    found = " ".join(tally.failures)
    for what in ("KeyError", "ended with -6", "more than 0.3 s", "MemoryError"):
        assert what in found, found
    assert tally.accepted + tally.refused + tally.n_failures == 120
    kept = [path.name for path in (tmp_path / "made_up").iterdir()]
    assert len(kept) == len(tally.failures) and all(name.endswith("--a.bin") for name in kept)
