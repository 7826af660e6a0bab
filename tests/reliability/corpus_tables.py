"""Damaged binary and text tables of captures, made by code: COLMAP models, point clouds, LLFF arrays."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tests.reliability.cases import Row, register
from tests.reliability.corpus_captures import Make, edited, train
from tests.scenes.builders import llff_table, save_pictures, write_colmap_binary, write_colmap_text, write_llff

N = 9
PLY = (
    b"ply\nformat binary_little_endian 1.0\nelement vertex %d\n"
    + b"property float x\nproperty float y\nproperty float z\n"
)
PLY += b"end_header\n"


def model(table: str, change: Callable[[bytes], bytes]) -> Make:
    """A binary COLMAP model in which `change` has damaged one table."""

    def make(folder: Path, rng: np.random.Generator) -> list[str]:
        write_colmap_binary(folder / "sparse" / "0", save_pictures(folder / "images", N))
        path = folder / "sparse" / "0" / f"{table}.bin"
        path.write_bytes(change(path.read_bytes()))
        return train(folder)

    return make


def text_model(table: str, old: str, new: str) -> Make:
    """A COLMAP model of text with one passage replaced."""

    def make(folder: Path, rng: np.random.Generator) -> list[str]:
        write_colmap_text(folder / "sparse" / "0", save_pictures(folder / "images", N))
        path = folder / "sparse" / "0" / f"{table}.txt"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))
        return train(folder)

    return make


def points(data: bytes) -> Make:
    """A capture whose point cloud is these bytes."""

    def make(folder: Path, rng: np.random.Generator) -> list[str]:
        words = edited(lambda d: d.update(ply_file_path="sparse.ply"))(folder, rng)
        (folder / "sparse.ply").write_bytes(data)
        return words

    return make


def llff(table: Callable[[], np.ndarray] | bytes) -> Make:
    """An LLFF capture with another array, or other bytes in its place."""

    def make(folder: Path, rng: np.random.Generator) -> list[str]:
        write_llff(folder, N)
        path = folder / "poses_bounds.npy"
        path.unlink()
        if callable(table):
            np.save(path, table())
        else:
            path.write_bytes(table)
        return train(folder)

    return make


def _count(number: int) -> Callable[[bytes], bytes]:
    return lambda data: struct.pack("<Q", number) + data[8:]


def _with(row: int, column: int, value: float) -> Callable[[], np.ndarray]:
    def table() -> np.ndarray:
        numbers = llff_table(N)
        numbers[row, column] = value
        return numbers

    return table


TABLES: Sequence[Row] = register(
    [
        *(
            Row(
                "C10",
                f"{table} cut short at {share} %",
                model(table, lambda data, share=share: data[: len(data) * share // 100]),
                f"{table}.bin",
                r"byte \d+.*cut short|cut short.*byte \d+",
            )
            for table in ("cameras", "images", "points3D")
            for share in (0, 5, 50, 99)
        ),
        *(
            Row("C10", f"2^63 {table}", model(table, _count(2**63)), f"{table}.bin", "9223372036854775808 .* announced")
            for table in ("cameras", "images", "points3D")
        ),
        Row(
            "C10",
            "2^63 observations",
            model("images", lambda d: d[:72] + d[72:].replace(struct.pack("<Q", 2), struct.pack("<Q", 2**63), 1)),
            "images.bin",
            "announced",
        ),
        Row(
            "C10",
            "a picture without camera",
            model("cameras", lambda d: d[:8] + struct.pack("<i", 7) + d[12:]),
            "images.bin",
            "camera 1 does not exist",
        ),
        Row("C10", "no pictures", model("images", lambda d: struct.pack("<Q", 0)), "images.bin", "no pictures"),
        Row(
            "C10",
            "unknown camera model",
            model("cameras", lambda d: d[:12] + struct.pack("<i", 99) + d[16:]),
            "cameras.bin",
            "unknown camera model number 99",
        ),
        Row(
            "C10",
            "name leaves the capture",
            model("images", lambda d: d.replace(b"0003.png", b"../0.png")),
            "images.bin",
            "leaves the capture folder",
        ),
        Row(
            "C10",
            "absolute name",
            model("images", lambda d: d.replace(b"0003.png", b"/etc/pas")),
            "images.bin",
            "not a path inside",
        ),
        Row(
            "C10",
            "quaternion of zeros",
            model("images", lambda d: d[:12] + bytes(32) + d[44:]),
            "images.bin",
            "quaternion has length 0",
        ),
        Row(
            "C10",
            "text of words",
            text_model("images", "1 0003.png", "one 0003.png"),
            "images.txt",
            r"line \d+: .*camera id",
        ),
        Row(
            "C10",
            "text camera cut short",
            text_model("cameras", " 8.0", ""),
            "cameras.txt",
            r"line 2.*4 numbers expected",
        ),
        Row(
            "C10",
            "a picture is missing",
            text_model("images", "0003.png", "0333.png"),
            ("images.txt", "0333.png"),
            "1 picture is missing",
        ),
        Row(
            "C11",
            "10^12 points",
            points(PLY % 10**12 + bytes(120)),
            "sparse.ply",
            "promises 1000000000000 points, the file holds 10",
        ),
        Row("C11", "cut short", points(PLY % 100 + bytes(599)), "sparse.ply", "promises 100 points, the file holds 49"),
        Row(
            "C11",
            "10^12 points in text",
            points(PLY.replace(b"binary_little_endian", b"ascii") % 10**12 + b"0 0 0\n" * 10),
            "sparse.ply",
            "promises 1000000000000 points",
        ),
        Row("C11", "a web page", points(b"<!doctype html><title>404</title>"), "sparse.ply", "not a PLY"),
        Row("C11", "negative count", points(PLY % -1), "sparse.ply", "names no points"),
        Row(
            "C10",
            "LLFF: cut short",
            llff(
                b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (9, 17), }"
                + b" " * 60
                + b"\n"
                + bytes(99)
            ),
            "poses_bounds.npy",
            "",
        ),
        Row("C10", "LLFF: objects", llff(lambda: np.array([{"a": 1}] * 3, dtype=object)), "poses_bounds.npy", ""),
        Row(
            "C10",
            "LLFF: 10^12 rows announced",
            llff(
                b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 17), }"
                + b" " * 47
                + b"\n"
                + bytes(99)
            ),
            "poses_bounds.npy",
            "",
        ),
        Row("C10", "LLFF: NaN", llff(_with(3, 2, np.nan)), "poses_bounds.npy", "NaN.*first row 3"),
        Row(
            "C10",
            "LLFF: depth runs backwards",
            llff(_with(3, 16, 0.5)),
            "poses_bounds.npy",
            "row 3: the depth range 1.5 to 0.5",
        ),
        Row(
            "C10",
            "LLFF: fewer photos than poses",
            llff(lambda: llff_table(N + 2)),
            "poses_bounds.npy",
            "11 poses but 9 photos",
        ),
    ]
)
