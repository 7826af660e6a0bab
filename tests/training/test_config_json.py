"""Settings survive JSON exactly, and what is not understood is refused by name."""

from __future__ import annotations

import dataclasses
import json
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nerfstudio_ext import methods
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.methods.config_json import changed_settings, config_from_data, config_to_data
from nerfstudio_ext.methods.ngp import NgpConfig
from nerfstudio_ext.training.config import RunConfig, SceneSource, TrainConfig


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    kind: Literal["a", "b", 3] = "a"


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    steps: int = 3
    flag: bool = False
    limit: float | None = None
    pair: tuple[int, float] = (1, 2.0)
    many: tuple[str, ...] = ()
    inner: Inner = dataclasses.field(default_factory=Inner)


finite = st.floats(-1e299, 1e299)  # larger numbers are refused: the next product of two would be infinite
outers = st.builds(
    Outer,
    name=st.text(),
    steps=st.integers(-(2**60), 2**60),
    flag=st.booleans(),
    limit=st.none() | finite,
    pair=st.tuples(st.integers(), finite),
    many=st.lists(st.text()).map(tuple),
    inner=st.builds(Inner, rate=finite, kind=st.sampled_from(["a", "b", 3])),
)


@given(outers)
def test_json_round_trip(config: Outer) -> None:
    text = json.dumps(config_to_data(config), allow_nan=False)
    assert config_from_data(Outer, json.loads(text), where="test") == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stepz": 4}, "unknown setting 'stepz'. Did you mean 'steps'?"),
        ({"zzz": 4}, "unknown setting 'zzz'. Known: flag, inner, limit, many, name, pair, steps"),
        ({"steps": 1.5}, r"f.steps: expected int, got 1.5"),
        ({"steps": True}, r"f.steps: expected int, got True"),
        ({"steps": "7"}, r"f.steps: expected int, got '7'"),
        ({"flag": 1}, "f.flag: expected bool, got 1"),
        ({"limit": "x"}, "f.limit: expected float, got 'x'"),
        ({"limit": float("nan")}, "f.limit: expected float, got nan"),
        ({"pair": [1]}, r"f.pair: expected 2 values, got 1"),
        ({"many": ["a", 4]}, r"f.many\[1\]: expected str, got 4"),
        ({"many": "abc"}, "f.many: expected a list, got 'abc'"),
        ({"inner": {"kind": "c"}}, "f.inner.kind: 'c' is not allowed"),
        ({"inner": {"kind": True}}, "f.inner.kind: True is not allowed"),
        ({"inner": 3}, "f.inner: expected an object with settings, got 3"),
        ({"name": None}, "f.name: expected str, got None"),
    ],
)
def test_refusals_name_place_and_reason(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config_from_data(Outer, {"name": "n", **change}, where="f")


def test_a_missing_setting_without_default_is_named() -> None:
    with pytest.raises(UserError, match="f: setting 'name' is missing"):
        config_from_data(Outer, {}, where="f")
    assert config_from_data(Outer, {"name": "n"}, where="f") == Outer("n")


def test_method_configs_round_trip_by_name() -> None:
    config = NgpConfig(n_levels=7, lr=3e-3)
    data = json.loads(json.dumps(methods.config_to_json(config)))
    assert data["name"] == "ngp"
    assert methods.config_from_json(data) == config


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "npg"}, "unknown method 'npg'. Did you mean 'ngp'"),
        ({"name": "ngp", "n_level": 3}, "unknown setting 'n_level'. Did you mean 'n_levels'"),
        ({"n_levels": 3}, "no method is named"),
        (None, "no method is named"),
        ({"name": ["ngp"]}, "no method is named"),
    ],
)
def test_damaged_method_configs_are_refused(data: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        methods.config_from_json(data)


def test_run_configs_round_trip() -> None:
    config = RunConfig(
        NgpConfig(hidden=32),
        TrainConfig(max_steps=7, max_train_seconds=1.5, seed=9),
        SceneSource("/photos", downscale=2.0, split_every=5),
        changes=("train.max_steps (5 -> 7)",),
    )
    data = json.loads(json.dumps(config.to_json(), allow_nan=False))
    assert RunConfig.from_json(data, where="config.json") == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema 2; this version reads 1.*Upgrade"),
        ({"trian": {}}, "unknown key 'trian'. Did you mean 'train'"),
        ({"train": {"max_step": 4}}, "train: unknown setting 'max_step'. Did you mean 'max_steps'"),
        ({"train": []}, "train: expected an object"),
        ({"source": {"path": 4}}, "source.path: expected str"),
        ({"changes": "x"}, "'changes' is not a list"),
    ],
)
def test_damaged_run_configs_are_refused(change: dict[str, object], message: str) -> None:
    data = {**RunConfig(NgpConfig()).to_json(), **change}
    with pytest.raises(UserError, match=f"config.json.*{message}"):
        RunConfig.from_json(data, where="config.json")


@pytest.mark.parametrize("name", ["max_steps", "max_train_seconds", "steps_per_save", "steps_per_log"])
def test_limits_must_be_positive(name: str) -> None:
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')}"):
        TrainConfig(**{name: 0})


def test_what_bounds_a_run() -> None:
    assert TrainConfig().step_limit == 10_000
    assert TrainConfig(max_train_seconds=60.0).step_limit is None
    assert TrainConfig(max_steps=5, max_train_seconds=60.0).step_limit == 5


def test_changed_settings_are_named_with_both_values() -> None:
    before = {"train": {"max_steps": 5, "seed": 0}, "version": "1"}
    now = {"train": {"max_steps": 9, "seed": 0}, "version": "1", "extra": None}
    assert changed_settings(before, now) == ["train.max_steps (5 -> 9)"]
