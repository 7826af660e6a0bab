"""Tiny hub models in folders, made once; without the extra `lift` every test that wants one is listed as not run."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"  # read when the packages are first imported
_MISSING = [name for name in ("diffusers", "transformers") if importlib.util.find_spec(name) is None]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model: `tiny_model("clip")`; do not write to it."""
    if _MISSING:
        pytest.skip('hub models: the extra is not installed (pip install "nerfstudio-ext[lift]")')
    from tests.lift import tiny_models

    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = getattr(tiny_models, f"save_{name}")(tmp_path_factory.mktemp("models") / name)
        return made[name]

    return get
