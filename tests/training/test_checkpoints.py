"""A checkpoint is absent, or complete and exactly what was written; whatever happens to the disk or the process."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nerfstudio_ext.errors import UserError
from nerfstudio_ext.training import checkpoints as ck

ROOT = Path(__file__).resolve().parents[2]


def tensors(seed: int = 0, rows: int = 40) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "table": torch.randn(rows, 2, generator=g),
        "bits": torch.randint(-(2**62), 2**62, (5,), generator=g),
        "generator": g.get_state(),
    }


def saved(folder: Path, step: int = 500, rows: int = 40) -> Path:
    return ck.save_checkpoint(folder, step, tensors(step, rows), {"clock": torch.tensor(1.25, dtype=torch.float64)})


def test_what_is_saved_is_loaded_bit_by_bit(tmp_path: Path) -> None:
    path = saved(tmp_path)
    assert path == tmp_path / "step-0000500"
    assert sorted(p.name for p in path.iterdir()) == ["manifest.json", "trainer.safetensors", "weights.safetensors"]
    loaded = ck.load_checkpoint(path)
    assert loaded.step == 500
    for name, tensor in tensors(500).items():
        assert loaded.weights[name].dtype == tensor.dtype
        assert torch.equal(loaded.weights[name], tensor)
    assert loaded.trainer["clock"].item() == 1.25
    assert ck.load_checkpoint(path, with_trainer=False).trainer == {}
    assert os.listdir(tmp_path) == ["step-0000500"]


def test_views_and_shared_memory_are_saved(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    path = ck.save_checkpoint(tmp_path, 1, {"a": base.T, "b": base[1:]}, {"a": base})
    assert torch.equal(ck.load_checkpoint(path).weights["a"], base.T)
    assert torch.equal(ck.load_checkpoint(path).weights["b"], base[1:])


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    path = saved(tmp_path)
    rng = random.Random(7)
    files = [path / name for name in (ck.WEIGHTS, ck.TRAINER, ck.MANIFEST)]
    for trial in range(400):
        file = files[trial % 3]
        good = file.read_bytes()
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        file.write_bytes(bad)
        with pytest.raises(ck.CheckpointDamaged) as caught:
            ck.load_checkpoint(path)
        assert path.name in caught.value.line
        assert "weights_only" not in caught.value.line
        file.write_bytes(good)
    ck.load_checkpoint(path)


def test_the_damaged_tensor_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path, rows=1000)
    file = path / ck.WEIGHTS
    data = bytearray(file.read_bytes())
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    start = 8 + int.from_bytes(data[:8], "little") + header["table"]["data_offsets"][0]
    data[start + 17] ^= 4
    file.write_bytes(data)
    with pytest.raises(ck.CheckpointDamaged, match="tensor 'table'"):
        ck.load_checkpoint(path)


@pytest.mark.parametrize("name", [ck.WEIGHTS, ck.TRAINER, ck.MANIFEST])
def test_truncation_anywhere_is_found(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path)
    file = path / name
    good = file.read_bytes()
    for length in {0, 1, 7, 8, 9, len(good) // 2, len(good) - 1, *range(3, len(good), max(1, len(good) // 50))}:
        file.write_bytes(good[:length])
        with pytest.raises(ck.CheckpointDamaged):
            ck.load_checkpoint(path)
    file.unlink()
    with pytest.raises(ck.CheckpointDamaged, match="missing"):
        ck.load_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 900,
        b"<html><body>404</body></html>",
        b'{"a": NaN}',
        b"[" * 100_000,
        b'{"step": 1}',
        b"\xff\xfe{}",
        b"[]",
    ],
)
def test_strange_manifests_are_refused(tmp_path: Path, content: bytes) -> None:
    path = saved(tmp_path)
    (path / ck.MANIFEST).write_bytes(content)
    with pytest.raises(ck.CheckpointDamaged, match="not a complete checkpoint"):
        ck.load_checkpoint(path)


def test_a_newer_format_asks_for_an_upgrade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ck, "FORMAT_VERSION", 99)
    path = saved(tmp_path)
    monkeypatch.undo()
    with pytest.raises(ck.CheckpointDamaged, match="99.*Upgrade"):
        ck.load_checkpoint(path)


def test_a_renamed_checkpoint_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path).rename(tmp_path / "step-0000900")
    with pytest.raises(ck.CheckpointDamaged, match="900.*500"):
        ck.load_checkpoint(path)


def test_the_newest_intact_one_is_chosen_and_the_skipped_are_named(tmp_path: Path) -> None:
    for step in (100, 200, 300):
        saved(tmp_path, step)
    for junk in ("step-abc", "step-0000400.damaged-1", ".tmp-step-0000500-77", "copy of step-0000300"):
        (tmp_path / junk).mkdir()
    (tmp_path / "step-0000999").write_text("a file")
    weights = tmp_path / "step-0000300" / ck.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1])
    chosen, skipped = ck.newest_checkpoint(tmp_path)
    assert chosen.step == 200
    assert len(skipped) == 1
    assert "step-0000300" in skipped[0]
    assert "got" in skipped[0]


def test_asking_for_a_damaged_one_offers_another(tmp_path: Path) -> None:
    saved(tmp_path, 100), saved(tmp_path, 200)
    (tmp_path / "step-0000200" / ck.TRAINER).write_bytes(b"")
    with pytest.raises(UserError, match="Use step 100"):
        ck.chosen_checkpoint(tmp_path, 200)
    with pytest.raises(UserError, match="no checkpoint of step 150.*Use step 100"):
        ck.chosen_checkpoint(tmp_path, 150)
    assert ck.chosen_checkpoint(tmp_path, 100).step == 100
    (tmp_path / "step-0000100" / ck.TRAINER).write_bytes(b"")
    with pytest.raises(UserError, match="no intact checkpoint; 2 damaged"):
        ck.newest_checkpoint(tmp_path)


def test_without_any_checkpoint_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint yet"):
        ck.newest_checkpoint(tmp_path / "nothing")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_never_good(
    tmp_path: Path, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = tensors()
    bad["table"][3, 1] = value
    with pytest.raises(ck.CheckpointNotSaved, match="'table' .1 of 80"):
        ck.save_checkpoint(tmp_path, 5, bad, {})
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(ck, "first_non_finite", lambda tensors: "")
    path = ck.save_checkpoint(tmp_path, 5, bad, {})
    monkeypatch.undo()
    with pytest.raises(ck.CheckpointDamaged, match="'table'"):
        ck.load_checkpoint(path)


def test_pruning_keeps_the_newest_intact_and_all_that_is_not_ours(tmp_path: Path) -> None:
    for step in (100, 200, 300, 400):
        saved(tmp_path, step)
    (tmp_path / "step-0000100" / "notes.txt").write_text("mine")
    (tmp_path / "photos").mkdir()
    manifest = tmp_path / "step-0000400" / ck.MANIFEST
    manifest.write_text("broken")
    ck.prune_checkpoints(tmp_path, 2)
    assert [step for step, path in ck.list_checkpoints(tmp_path) if ck.is_intact(path)] == [300, 200]
    assert (tmp_path / "step-0000100" / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "step-0000100" / ck.MANIFEST).exists()
    assert (tmp_path / "photos").is_dir()
    assert manifest.read_text() == "broken"


@pytest.mark.parametrize("n_removed", [0, 1, 2, 3])
def test_a_kill_while_pruning_leaves_nothing_that_looks_damaged(
    tmp_path: Path, n_removed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (100, 200):
        saved(tmp_path, step)
    unlink, removed = Path.unlink, []

    def killed(path: Path, missing_ok: bool = False) -> None:
        if len(removed) == n_removed:
            raise KeyboardInterrupt
        removed.append(path)
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        patch.setattr(Path, "rmdir", killed)
        with pytest.raises(KeyboardInterrupt):
            ck.prune_checkpoints(tmp_path, 1)
    assert [step for step, _ in ck.list_checkpoints(tmp_path)] == [200]
    assert ck.remove_leftovers(tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000200"]


def test_leftovers_of_a_killed_process_go_and_nothing_else(tmp_path: Path) -> None:
    saved(tmp_path, 100)
    ours = tmp_path / ".tmp-step-0000200-4242"
    ours.mkdir()
    (ours / ck.WEIGHTS).write_bytes(b"half")
    other = tmp_path / ".tmp-step-0000300-4242"
    other.mkdir()
    (other / "precious.txt").write_text("mine")
    (tmp_path / ".tmp-elsewhere").mkdir()
    ck.remove_leftovers(tmp_path)
    assert not ours.exists()
    assert (other / "precious.txt").read_text() == "mine"
    assert (tmp_path / ".tmp-elsewhere").is_dir()
    assert ck.is_intact(tmp_path / "step-0000100")


def test_saving_again_replaces_a_damaged_one_and_keeps_it_aside(tmp_path: Path) -> None:
    path = saved(tmp_path)
    inode = path.stat().st_ino
    assert saved(tmp_path).stat().st_ino == inode, "an intact checkpoint is left alone"
    (path / ck.WEIGHTS).write_bytes(b"damaged")
    assert ck.is_intact(saved(tmp_path))
    assert (tmp_path / "step-0000500.damaged-1" / ck.WEIGHTS).read_bytes() == b"damaged"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_keeps_the_old_and_removes_the_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    saved(tmp_path, 100)
    flush, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(code, os.strerror(code))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ck.CheckpointNotSaved, match=r"disk full.*need [\d.]+ MB, [\d.]+ MB free"):
        saved(tmp_path, 200)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["step-0000100"]
    assert ck.newest_checkpoint(tmp_path)[0].step == 100


def test_a_disk_without_room_is_not_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=500))
    with pytest.raises(ck.CheckpointNotSaved, match="disk full: need 0.0 MB, 0.0 MB free"):
        saved(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_limit_on_file_sizes_reads_like_a_full_disk(tmp_path: Path) -> None:
    """A real short write, in a process of its own because the limit cannot be raised again."""
    code = (
        "import resource, sys, torch; from pathlib import Path\n"
        "from nerfstudio_ext.training import checkpoints as ck\n"
        "folder = Path(sys.argv[1]); w = lambda n: {'table': torch.zeros(n)}\n"
        "ck.save_checkpoint(folder, 1, w(10), {})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: ck.save_checkpoint(folder, 2, w(1_000_000), {})\n"
        "except ck.CheckpointNotSaved as e: print(e)\n"
        "print(ck.newest_checkpoint(folder)[0].step)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "disk full" in done.stdout
    assert done.stdout.splitlines()[-1] == "1"
    assert os.listdir(tmp_path) == ["step-0000001"]


def test_a_disk_that_lies_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: read(self)[:-1] + b"?")
    with pytest.raises(ck.CheckpointNotSaved, match="reads back differently"):
        saved(tmp_path)
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())


_KILL_LOOP = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from nerfstudio_ext.training import checkpoints as ck

folder, rounds, rng, last = Path(sys.argv[1]), int(sys.argv[2]), random.Random(1), 0
for _ in range(rounds):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        step = last
        while True:
            step += 1
            weights = {"table": torch.full((50_000,), float(step))}
            ck.save_checkpoint(folder, step, weights, {"s": torch.tensor(step)})
            os.write(writer, f"{step}\\n".encode())
            ck.prune_checkpoints(folder, 2)
    os.close(writer)
    first = os.read(reader, 100)
    time.sleep(rng.uniform(0.0, 0.03))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    said = (first + os.read(reader, 1 << 16)).split()
    os.close(reader)
    newest, skipped = ck.newest_checkpoint(folder)
    assert newest.step >= int(said[-1]) > last, (newest.step, said, last)
    assert not skipped, skipped
    assert torch.equal(newest.weights["table"], torch.full((50_000,), float(newest.step)))
    last = newest.step
    ck.remove_leftovers(folder)
    assert not [name for name in os.listdir(folder) if name.startswith(".")]
print("kept", last)
"""


def test_no_kill_loses_the_last_good_checkpoint(tmp_path: Path) -> None:
    """The loop runs in a process of its own with one thread, so that forking it is safe."""
    done = subprocess.run(
        [sys.executable, "-c", _KILL_LOOP, str(tmp_path), "40"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= 40
