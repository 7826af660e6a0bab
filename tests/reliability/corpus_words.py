"""Words and settings that a command must refuse, made by code: unknown options, damaged settings of a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.reliability.cases import Row, register
from tests.reliability.corpus_captures import Make, edited


def words(*said: str) -> Make:
    """These words, on an input that does not matter."""

    def make(folder: Path, rng: np.random.Generator) -> list[str]:
        return list(said)

    return make


def on_a_capture(*said: str) -> Make:
    """Further words for a training on a capture that is whole."""

    def make(folder: Path, rng: np.random.Generator) -> list[str]:
        return [*edited(lambda document: None)(folder, rng), *said]

    return make


WORDS: Sequence[Row] = register(
    [
        Row("C15", "no input", words("train"), "nsx train", "no INPUT was given"),
        Row("C15", "unknown command", words("trian", "in"), "'trian'", "Did you mean 'train'"),
        Row(
            "C15",
            "unknown option",
            words("train", "in", "--max-stepz", "3"),
            "'--max-stepz'",
            "Did you mean '--max-steps'",
        ),
        Row("C15", "unknown method", words("train", "npg", "in"), "'npg'", "Did you mean 'ngp'"),
        Row("C15", "bad number", words("train", "ngp", "in", "--max-steps", "3.5"), "max-steps", "3.5"),
        Row(
            "C15", "text for a number", words("train", "ngp", "in", "--seed", "$(touch marker)"), "seed", "touch marker"
        ),
        Row(
            "C15",
            "number out of range",
            words("train", "ngp", "in", "--max-steps", "-3"),
            "--max-steps",
            "-3 is not positive",
        ),
        Row("C15", "not a number", on_a_capture("--downscale-factor", "nan"), "", "nan is out of range"),
        Row("C15", "too small a side", on_a_capture("--max-side", "3"), "", "3 is out of range"),
        Row("C15", "unknown choice", words("process", "in", "--matching", "all"), "matching", "exhaustive"),
        Row("C15", "a value is missing", words("train", "ngp", "in", "--max-steps"), "max-steps", ""),
        Row("C15", "a word too many", words("train", "ngp", "in", "out"), "'out'", "one word too many"),
        Row(
            "C15",
            "input given twice",
            words("render", "in", "--load-config", "in", "--path", "orbit", "--output-path", "o.mp4"),
            "",
            "too many|twice",
        ),
        Row("C15", "resume with an input", words("train", "in", "--resume", "in"), "--resume", "too much"),
        Row(
            "C15",
            "JSON into a missing folder",
            words("train", "in", "--json", "nowhere/x.json"),
            "nowhere/x.json",
            "does not exist",
        ),
    ]
)


def edited_run(run: Path, edit: Callable[[dict[str, Any]], object]) -> Make:
    """A copy of a finished run whose settings are edited; evaluated."""

    def make(folder: Path, rng: np.random.Generator) -> list[str]:
        shutil.copytree(run, folder / "run")
        path = folder / "run" / "config.json"
        document = json.loads(path.read_text())
        edit(document)
        path.write_text(json.dumps(document))
        return ["eval", str(folder / "run")]

    return make


def spoilt_run(run: Path, data: bytes) -> Make:
    """A copy of a finished run whose settings are these bytes; evaluated."""

    def make(folder: Path, rng: np.random.Generator) -> list[str]:
        shutil.copytree(run, folder / "run")
        (folder / "run" / "config.json").write_bytes(data)
        return ["eval", str(folder / "run")]

    return make


def on_a_run(run: Path, *said: str) -> Make:
    """Words about a finished run, in which RUN stands for it."""

    def make(folder: Path, rng: np.random.Generator) -> list[str]:
        shutil.copytree(run, folder / "run")
        return [word.replace("RUN", str(folder / "run")) for word in said]

    return make


def foreign_run(folder: Path, rng: np.random.Generator) -> list[str]:
    """A run of another program: settings in YAML that would run a program, and a checkpoint."""
    (folder / "config.yml").write_text(YAML.format(marker=folder.parent / "marker-of-foreign-code"))
    (folder / "nerfstudio_models").mkdir()
    (folder / "nerfstudio_models" / "step-000000100.ckpt").write_bytes(b"\x80\x02cos\nsystem\n.")
    return ["eval", "--load-config", str(folder / "config.yml")]


def rows_of_a_run(run: Path) -> Sequence[Row]:
    """Rows about the settings of a finished run, which stays as it is: each damages a copy."""
    yaml = YAML.format(marker="marker-of-foreign-code").encode()
    wrong_types = {"text": "30", "a list": [30], "an object": {}, "null": None, "true": True}
    return [
        Row("C14", "YAML with an object tag", spoilt_run(run, yaml), "config.json", "not valid JSON at line 1"),
        Row("C14", "YAML anchors that double", spoilt_run(run, BOMB), "config.json", "not valid JSON"),
        Row("C14", "nested 100,000 deep", spoilt_run(run, b'{"a":' * 100_000), "config.json", "nested too deeply"),
        Row("C14", "the run of another program", foreign_run, "config.yml", "not a run folder"),
        *(
            Row("C14", f"unknown key in {part}", edited_run(run, lambda d, p=part, k=key: d[p].update({k: 1})),
                ("config.json", f"'{key}'"), "Did you mean '")
            for part, key in (("method", "n_level"), ("train", "max_step"), ("source", "max_sides"))
        ),
        *(
            Row("C14", f"{name} for a number", edited_run(run, lambda d, v=value: d["train"].update(seed=v)),
                "config.json", "seed.*expected int")
            for name, value in wrong_types.items()
        ),
        Row("C14", "a module for a method", edited_run(run, lambda d: d["method"].update(name="os.system")),
            "config.json", "unknown method 'os.system'"),
        Row("C14", "no method", edited_run(run, lambda d: d.pop("method")), "config.json"),
        Row("C14", "NaN", edited_run(run, lambda d: d["train"].update(seed=float("nan"))), "config.json", "NaN"),
        Row("C15", "size is no size", on_a_run(run, *RENDER, "--size", "0x7"), "--size", "'0x7'"),
        Row("C15", "unknown split", on_a_run(run, "eval", "RUN", "--split", "tets"), "split", "'test'"),
    ]  # fmt: skip


RENDER = ("render", "RUN", "--path", "orbit", "--output-path", "orbit.mp4")
YAML = """!!python/object/apply:os.system ["touch {marker}"]
trainer: !!python/object/new:subprocess.Popen [["touch", "{marker}"]]
"""
BOMB = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n" % (c, c, *[c - 1] * 9) for c in range(ord("b"), ord("i"))
)
