"""The portable scene file: the same pictures as the run, and nothing forged gets in."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nerfstudio_ext.camera_paths.world_frame import WorldFrame, write_world_frame
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.training.runs import open_run
from nerfstudio_ext.training.scene_file import (
    MANIFEST,
    chosen_world_frame,
    scene_of,
    thumbnail_bytes,
    write_scene_file,
)


@pytest.fixture(scope="module")
def packed(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene_file(open_run(tiny_run), tmp_path_factory.mktemp("scene") / "ball.nsx")


def test_a_scene_file_renders_bit_for_bit_like_its_run(tiny_run: Path, packed: Path) -> None:
    run, scene = open_run(tiny_run), open_run(packed)
    assert scene.step == run.step == 30 and scene.path == packed
    for i in range(3):
        camera = run.meta.training_cameras()[i]
        a, b = run.renderer().render(camera), scene.renderer().render(scene.meta.training_cameras()[i])
        assert torch.equal(a.rgb, b.rgb) and torch.equal(a.depth, b.depth)
    assert scene.meta.image_names == run.meta.image_names and scene.meta.split == run.meta.split
    assert scene.results == packed.with_suffix("")


def test_it_holds_data_only_and_no_paths_of_this_machine(tiny_run: Path, tiny_capture: Path, packed: Path) -> None:
    content = packed.read_bytes()
    assert str(tiny_capture).encode() not in content and str(tiny_run.parents[2]).encode() not in content
    with zipfile.ZipFile(packed) as archive:
        names = archive.namelist()
    assert names[:4] == ["nsx.json", "config.json", "scene.json", "weights.safetensors"]
    assert sum(name.startswith("thumbnails/") for name in names) == 14
    with open(tiny_run / "thumbnails/00003.jpg", "rb") as file:
        assert thumbnail_bytes(packed, [3, 999]) == [file.read(), None]


def test_packing_again_gives_the_same_bytes_and_asks_before_replacing(packed: Path, tmp_path: Path) -> None:
    again = write_scene_file(open_run(packed), tmp_path / "ball.nsx")
    assert again.read_bytes() == packed.read_bytes()
    with pytest.raises(UserError, match="exists"):
        write_scene_file(open_run(packed), again)
    assert [p.name for p in tmp_path.iterdir()] == ["ball.nsx"]


def test_the_world_frame_travels_along(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    assert chosen_world_frame(run) is None
    write_world_frame(replace(WorldFrame.identity(), scale=2.5, is_metric=True), run)
    file = write_scene_file(open_run(run), tmp_path / "a.nsx")
    world = chosen_world_frame(file)
    assert world is not None and world.scale == 2.5 and world.is_metric
    assert scene_of(file)[0].name == scene_of(run)[0].name == "ball"


def test_only_its_own_step_is_there(packed: Path) -> None:
    assert open_run(packed, checkpoint=30).step == 30
    with pytest.raises(UserError, match="it holds step 30, not 7"):
        open_run(packed, checkpoint=7)


def rewritten(
    packed: Path, target: Path, change: Callable[[dict[str, bytes]], object], *, honest: bool = True, packing: int = 0
) -> Path:
    """A copy with changed members; with `honest` the list of sizes and hashes fits them."""
    with zipfile.ZipFile(packed) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    if honest:
        about = json.loads(members[MANIFEST])
        about["files"] = {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in members.items()
            if name != MANIFEST
        }
        members[MANIFEST] = json.dumps(about).encode()
    with zipfile.ZipFile(target, "w", packing) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return target


def edit_json(name: str, change: Callable[[dict], object]) -> Callable[[dict[str, bytes]], None]:
    def edit(members: dict[str, bytes]) -> None:
        data = json.loads(members[name])
        change(data)
        members[name] = json.dumps(data).encode()

    return edit


HOSTILE: dict[str, tuple[Callable[[dict[str, bytes]], object], bool, str]] = {
    "traversal": (lambda m: m.update({"../../evil.sh": b"x"}), True, "has no place"),
    "absolute path": (lambda m: m.update({"/etc/passwd": b"x"}), True, "has no place"),
    "odd thumbnail": (lambda m: m.update({"thumbnails/../../x.jpg": b"x"}), True, "has no place"),
    "pickle": (lambda m: m.update({"weights.pkl": b"x"}), True, "has no place"),
    "no weights": (lambda m: m.pop("weights.safetensors"), True, "'weights.safetensors' is missing"),
    "no list": (lambda m: m.pop(MANIFEST), False, f"'{MANIFEST}' is missing"),
    "changed weights": (
        lambda m: m.update({"weights.safetensors": m["weights.safetensors"][:-1] + b"\x7f"}), False, "checksum"
    ),
    "cut weights": (lambda m: m.update({"weights.safetensors": m["weights.safetensors"][:-9]}), False, "not the size"),
    "garbage weights": (lambda m: m.update({"weights.safetensors": b"\x00" * 100}), True, "not a tensor file"),
    "endless header": (lambda m: m.update({"weights.safetensors": b"\xff" * 100}), True, "header would have"),
    "large thumbnail": (lambda m: m.update({"thumbnails/00000.jpg": bytes(2**21)}), True, "too large"),
    "another format": (edit_json(MANIFEST, lambda d: d.update(format="zip")), True, "another format"),
    "newer format": (edit_json(MANIFEST, lambda d: d.update(format_version=9)), True, "this version reads 1"),
    "list is a text": (edit_json(MANIFEST, lambda d: d.update(files="all")), False, "list of members"),
    "step is a text": (edit_json(MANIFEST, lambda d: d.update(step="many")), True, "expected a number"),
    "unknown method": (edit_json("config.json", lambda d: d["method"].update(name="os")), True, "unknown method"),
    "all memory": (
        edit_json("config.json", lambda d: d["method"].update(grid_size=4096)), True, "million numbers at once"
    ),
    "huge network": (
        edit_json("config.json", lambda d: d["method"].update(hidden=2**20, color_hidden=2**20)), True,
        "million numbers at once",
    ),
    "not its weights": (edit_json("config.json", lambda d: d["method"].update(hidden=32)), True, "expected"),
    "no cameras": (edit_json("scene.json", lambda d: d.update(images="none")), True, "not a list of objects"),
    "NaN pose": (lambda m: m.update({"scene.json": m["scene.json"].replace(b"2.5", b"NaN", 1)}), True, "."),
    "not text": (lambda m: m.update({"scene.json": b"\xff\xfe"}), True, "not UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_get_one_line(name: str, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change, honest, words = HOSTILE[name]
    file = rewritten(packed, tmp_path / "bad.nsx", change, honest=honest)
    before = sorted(p.name for p in tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words) as found:
        open_run(file)
    assert "\n" not in found.value.line
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_packed_members_and_overlaps_are_refused(packed: Path, tmp_path: Path) -> None:
    squeezed = rewritten(packed, tmp_path / "z.nsx", lambda m: None, packing=zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="is packed, encrypted or too large"):
        open_run(squeezed)
    # Two entries of the index point at the same bytes: the sum is larger than the file.
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("weights.safetensors", b"w" * 5000)
        info = archive.infolist()[0]
        for other in ("config.json", "scene.json", MANIFEST):
            twin = zipfile.ZipInfo(other)
            for field in ("header_offset", "CRC", "compress_size", "file_size"):
                setattr(twin, field, getattr(info, field))
            archive.filelist.append(twin)
    overlapping = tmp_path / "o.nsx"
    overlapping.write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="overlap"):
        open_run(overlapping)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_files_cut_short_or_empty_are_refused(packed: Path, tmp_path: Path, share: float) -> None:
    content = packed.read_bytes()
    file = tmp_path / "cut.nsx"
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match="not a scene file"):
        open_run(file)
    with pytest.raises(UserError, match="no such scene file"):
        open_run(tmp_path / "none.nsx")


def test_every_flipped_bit_is_noticed(packed: Path, tmp_path: Path) -> None:
    content = packed.read_bytes()
    noticed = 0
    generator = torch.Generator().manual_seed(0)
    places = torch.randint(len(content), (24,), generator=generator).tolist()
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1
        file = tmp_path / "flip.nsx"
        file.write_bytes(damaged)
        try:
            opened = open_run(file)
        except UserError:
            noticed += 1
        else:
            # Names, dates and flags of the archive that mean nothing to us may change without harm.
            same = zip(opened.method.state_dict().values(), open_run(packed).method.state_dict().values(), strict=True)
            assert all(torch.equal(a, b) for a, b in same)
    assert noticed >= 20
