"""Damaged, hostile and foreign models, each made by a few lines from the golden run of this release."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from nerfstudio_ext.training import checkpoints as ck
from tests.cli.tiny_capture import write_capture
from tests.reliability.cases import Row

GOLDEN = Path(__file__).parent / "golden"
RUN, SCENE = GOLDEN / "run-1", GOLDEN / "scene-1.nsx"
NEWEST, OLDER = "step-0000030", "step-0000015"
RENDER = ("--path", "in/absent.json", "--output-path", "out")
"""The path is missing: a render that opens the run all the same is refused for another reason, and the row fails."""

Make = Callable[[Path, np.random.Generator], Sequence[str]]


def golden_run(folder: Path) -> Path:
    """A copy of the golden run."""
    return Path(shutil.copytree(RUN, folder / "run"))


def damaged(
    name: str, change: Callable[[bytes], bytes], *, file: str = ck.WEIGHTS, words: Sequence[str] = RENDER
) -> Make:
    """The golden run with one file of its newest checkpoint changed, which is then asked for by its step."""

    def make(folder: Path, _rng: np.random.Generator) -> Sequence[str]:
        path = golden_run(folder) / "checkpoints" / NEWEST / file
        path.write_bytes(change(path.read_bytes()))
        return ["render", "in/run", "--checkpoint", "30", *words]

    make.__name__ = name
    return make


def flipped(data: bytes) -> bytes:
    """One bit of the last tensor is another."""
    changed = bytearray(data)
    changed[-5] ^= 4
    return bytes(changed)


def resaved(change: Callable[[dict[str, Tensor]], object]) -> Make:
    """The golden run whose newest checkpoint holds other tensors, with checksums that are right."""

    def make(folder: Path, _rng: np.random.Generator) -> Sequence[str]:
        checkpoints = golden_run(folder) / "checkpoints"
        loaded = ck.load_checkpoint(checkpoints / NEWEST)
        change(loaded.weights)
        shutil.rmtree(checkpoints / NEWEST)
        with mock.patch.object(ck, "first_non_finite", return_value=""):
            ck.save_checkpoint(checkpoints, 30, loaded.weights, loaded.trainer)
        return ["render", "in/run", "--checkpoint", "30", *RENDER]

    return make


def reconfigured(key: str, value: Any) -> Make:
    """The golden run with another setting of its method."""

    def make(folder: Path, _rng: np.random.Generator) -> Sequence[str]:
        path = golden_run(folder) / "config.json"
        data = json.loads(path.read_text())
        data["method"][key] = value
        path.write_text(json.dumps(data))
        return ["render", "in/run", *RENDER]

    return make


def of_format(version: int) -> Make:
    """The golden run with its newest checkpoint in another version of the format."""

    def make(folder: Path, _rng: np.random.Generator) -> Sequence[str]:
        checkpoints = golden_run(folder) / "checkpoints"
        loaded = ck.load_checkpoint(checkpoints / NEWEST)
        shutil.rmtree(checkpoints / NEWEST)
        with mock.patch.object(ck, "FORMAT_VERSION", version):
            ck.save_checkpoint(checkpoints, 30, loaded.weights, loaded.trainer)
        return ["render", "in/run", "--checkpoint", "30", *RENDER]

    return make


# -- Files that would run code ---------------------------------------------------------------------------------------


def os_system(marker: Path) -> bytes:
    """A pickle that calls os.system, written opcode by opcode: `cos\\nsystem`, the command, REDUCE."""
    command = f"touch {marker}".encode()
    return b"\x80\x02cposix\nsystem\nX" + struct.pack("<I", len(command)) + command + b"\x85R."


def gadget(marker: Path) -> bytes:
    """A pickle that lets torch itself unpickle another one without limits."""
    inner = os_system(marker)
    return b"\x80\x03ctorch.storage\n_load_from_bytes\nB" + struct.pack("<I", len(inner)) + inner + b"\x85R."


def evaluated(marker: Path) -> bytes:
    """A pickle that evaluates a text."""
    text = f"open({str(marker)!r}, 'w')".encode()
    return b"\x80\x02cbuiltins\neval\nX" + struct.pack("<I", len(text)) + text + b"\x85R."


def torch_archive(pickled: bytes, *, packed: bool = False, more: dict[str, bytes] | None = None) -> bytes:
    """What torch.save writes, around a pickle of our own."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        members = {"data.pkl": pickled, "byteorder": b"little", "version": b"3\n"} | (more or {})
        for name, data in members.items():
            archive.writestr(f"archive/{name}" if not name.startswith("..") else name, data)
    return buffer.getvalue()


PAYLOADS: dict[str, Callable[[Path], bytes]] = {"os.system": os_system, "a gadget": gadget, "eval": evaluated}


def foreign(content: Callable[[Path], bytes], words: Sequence[str], name: str = "in/model.pth") -> Make:
    """A file whose content gets the path of the marker it tries to leave, and the words that open it."""

    def make(folder: Path, _rng: np.random.Generator) -> Sequence[str]:
        (folder.parent / name).write_bytes(content(folder.parent / "marker"))
        if "in/ball" in words:
            write_capture(folder / "ball")
        return list(words)

    return make


def hostile_checkpoint(content: Callable[[Path], bytes]) -> Make:
    """A run whose newest weights are a torch file, with checksums that are right."""

    def make(folder: Path, _rng: np.random.Generator) -> Sequence[str]:
        checkpoints = golden_run(folder) / "checkpoints"
        loaded = ck.load_checkpoint(checkpoints / NEWEST)
        shutil.rmtree(checkpoints / NEWEST)
        data = torch_archive(content(folder.parent / "marker"))
        with mock.patch.multiple(ck, pack_safetensors=lambda _: data, tensor_checksums=lambda _: {}):
            ck.save_checkpoint(checkpoints, 30, loaded.weights, loaded.trainer)
        return ["render", "in/run", "--checkpoint", "30", *RENDER]

    return make


IMPORT_GNT = ("import", "gnt", "in/model.pth", "--output-path", "out.safetensors")
IMPORT_AUG = ("import", "aug", "in/model.pth", "--capture", "in", "--output-dir", "out")
DECODER = ("stega", "extract", "in/picture.png", "--key", "k", "--decoder", "in/model.pth")
VIEW = ("view", "in/model.pth")
EXPORT = ("export", "points", "in/model.nsx", "--output-path", "out.ply")


def pickle_rows() -> list[Row]:
    """Pickles that try to leave a marker, through everything that opens a model."""
    rows = [
        Row("D3", f"{kind}, {words[1]}", foreign(lambda m, p=p: torch_archive(p(m)), words), "model.pth", "safely")
        for kind, p in PAYLOADS.items()
        for words in (IMPORT_GNT, IMPORT_AUG)
    ]  # fmt: skip
    rows += [
        Row("D3", "a bare pickle", foreign(os_system, IMPORT_GNT), "model.pth", "not a checkpoint of torch 1.6"),
        Row("D3", "as a decoder", foreign(lambda m: torch_archive(os_system(m)), DECODER), "model.pth", "tensor file"),
        Row("D3", "as a run to view", foreign(lambda m: torch_archive(os_system(m)), VIEW), "model.pth", "not a run"),
        Row("D3", "as a scene", foreign(lambda m: torch_archive(os_system(m)), EXPORT, "in/model.nsx"), "model.nsx"),
        Row("D3", "as a checkpoint", hostile_checkpoint(os_system), NEWEST, "not a tensor file"),
    ]
    return rows


# -- Tensor files that claim too much ----------------------------------------------------------------------------------


def tensor_file(header: dict[str, Any] | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with this header, whatever it says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: Sequence[int] = (2,), offsets: Sequence[int] = (0, 8), dtype: str = "F32") -> dict[str, Any]:
    """One tensor in a header."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


_EMPTY = b'"t%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
_TWICE = b'{"a":' + json.dumps(entry()).encode() + b',"a":' + json.dumps(entry()).encode() + b"}"
TENSOR_BOMBS: dict[str, Callable[[], bytes]] = {
    "a header of 2^40 bytes": lambda: tensor_file(b"{}", length=2**40),
    "a header of 2^64 - 1 bytes": lambda: tensor_file(b"{}", length=2**64 - 1),
    "overlapping tensors": lambda: tensor_file({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)),
    "a hole": lambda: tensor_file({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20)),
    "bytes beyond the last tensor": lambda: tensor_file({"a": entry()}, bytes(20)),
    "a million tensors": lambda: tensor_file(b"{" + b",".join(_EMPTY % i for i in range(1_000_000)) + b"}"),
    "twenty thousand tensors": lambda: tensor_file({f"t{i}": entry((0,), (0, 0)) for i in range(20_000)}),
    "a shape beyond 64 bits": lambda: tensor_file({"a": entry((2**33, 2**33))}, bytes(8)),
    "an empty shape beyond 64 bits": lambda: tensor_file({"a": entry((2**62, 2**62, 0), (0, 0))}),
    "a negative side": lambda: tensor_file({"a": entry((-2,))}, bytes(8)),
    "a negative offset": lambda: tensor_file({"a": entry(offsets=(-8, 0))}, bytes(8)),
    "one name twice": lambda: tensor_file(_TWICE, bytes(8)),
    "nesting": lambda: tensor_file(b"[" * 100_000),
    "an unknown type": lambda: tensor_file({"a": entry(dtype="F33")}, bytes(8)),
}
TENSOR_READERS = {
    "decoder": (*DECODER[:-1], "in/model.safetensors"),
    "weights": ("eval", "in/ball", "--method", "gnt", "--weights", "in/model.safetensors"),
    "import": ("import", "gnt", "in/model.safetensors", "--output-path", "out.safetensors"),
}


def tensor_rows() -> list[Row]:
    """Every bomb through one reader, and one bomb through every reader."""
    makers = {name: foreign(lambda _m, b=b: b(), TENSOR_READERS["import"], "in/model.safetensors")
              for name, b in TENSOR_BOMBS.items()}  # fmt: skip
    rows = [Row("D4", name, make, "model.safetensors", "tensor") for name, make in makers.items()]
    bomb = TENSOR_BOMBS["a header of 2^40 bytes"]
    return rows + [
        Row("D4", f"as {name}", foreign(lambda _m: bomb(), words, "in/model.safetensors"), "model.safetensors",
            "header would have")
        for name, words in TENSOR_READERS.items()
    ]  # fmt: skip


def saved_by_torch(value: object) -> Callable[[Path], bytes]:
    """What torch.save makes of a value."""

    def content(_marker: Path) -> bytes:
        buffer = io.BytesIO()
        torch.save(value, buffer)
        return buffer.getvalue()

    return content
