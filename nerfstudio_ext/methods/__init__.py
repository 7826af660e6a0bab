"""The scene methods: the union of their configs, how a config becomes a method, and configs as JSON.

Adding a method is one file in this folder, one name in `MethodConfig` and one line in `builtin_methods`. Packages
outside offer methods through the entry-point group `nerfstudio_ext.methods`: each entry loads to a `MethodEntry`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn

from ..errors import UserError
from .aug import Aug
from .aug_settings import AugConfig
from .config_json import config_from_data, config_to_data, did_you_mean
from .gnt import Gnt
from .gnt_config import GntConfig
from .lift import Lift
from .lift_config import LiftConfig
from .marked import MarkedConfig, marked_over
from .ngp import Ngp, NgpConfig

if TYPE_CHECKING:
    from ..scenes.model import SceneMeta
    from .protocol import Method


MethodConfig: TypeAlias = NgpConfig | AugConfig | GntConfig | LiftConfig
"""The settings of any method."""


@dataclass(frozen=True)
class MethodEntry:
    """One kind of method.

    Attributes:
        name: The word on the command line and in run folders.
        config: Its frozen config dataclass; every field has a default.
        build: `build(config, meta, seed=...)` makes an untrained method on the CPU.
        is_trainable: Whether `nsx train` offers it.
        devices: Types of device it runs on.
    """

    name: str
    config: type
    build: Callable[..., Method]
    is_trainable: bool = True
    devices: tuple[str, ...] = ("cpu",)


@functools.cache
def known_methods() -> dict[str, MethodEntry]:
    """All methods by name, ours first; an outside package cannot replace one of ours."""
    found = {
        "ngp": MethodEntry("ngp", NgpConfig, Ngp, devices=("cpu", "cuda")),
        "aug": MethodEntry("aug", AugConfig, Aug),
    }
    found["gnt"] = MethodEntry("gnt", GntConfig, Gnt)
    found["lift"] = MethodEntry("lift", LiftConfig, Lift)
    found["marked"] = MethodEntry("marked", MarkedConfig, _build_marked, is_trainable=False)
    for point in entry_points(group="nerfstudio_ext.methods"):
        if point.name not in found:
            found[point.name] = point.load()
    return found


def method_name(config: object) -> str:
    """The name of the method a config belongs to."""
    for entry in known_methods().values():
        if type(config) is entry.config:
            return entry.name
    raise TypeError(f"{type(config).__name__} is not the config of a known method")


def build(config: object, meta: SceneMeta, *, seed: int = 0, device: torch.device | str = "cpu") -> Method:
    """Make an untrained method for a scene.

    Args:
        config: A `MethodConfig`.
        meta: The scene's cameras, box and background; no pixels are needed.
        seed: Seeds all of the method's random generators.
        device: Where its tensors live; "auto" takes the fastest that the method and the machine have.
    Raises:
        UserError: if the machine or the method cannot do it.
    """
    device = device_for(config, device)
    method = known_methods()[method_name(config)].build(config, meta, seed=seed)
    return method.to(device) if isinstance(method, nn.Module) else method


def device_for(config: object, wanted: torch.device | str) -> torch.device:
    """The device to use where `wanted` was asked for: a device, or "auto".

    Raises:
        UserError: if there is no such device, or the method does not run there.
    """
    name = method_name(config)
    can_use_gpu = "cuda" in known_methods()[name].devices
    if str(wanted) == "auto":
        return torch.device("cuda" if can_use_gpu and torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    if device.type != "cpu" and device.type not in known_methods()[name].devices:
        raise UserError(f"{name} runs on the CPU only", where=f"--device {device}", fix="Use --device cpu or auto")
    if device.type == "cuda" and not torch.cuda.is_available():
        built = "this torch is built for CUDA" if torch.version.cuda else "this torch is a CPU build"
        raise UserError(
            f"torch finds no CUDA device ({built} {torch.version.cuda or ''}".rstrip() + ")",
            where=f"--device {device}",
            fix="Use --device cpu, or install a CUDA build of torch and a driver that fits it",
        )
    return device


def for_device(config: Any, device: torch.device) -> Any:
    """A config with what was left at its default chosen for a device; most are the same on all."""
    return config.for_device(device) if hasattr(config, "for_device") else config


def _build_marked(config: MarkedConfig, meta: SceneMeta, *, seed: int = 0) -> Method:
    base = config_from_json(config.base, where="config.json: method.base")
    return marked_over(config, build(base, meta, seed=seed), meta.frame.aabb_scale)


def settled(config: Any) -> Any:
    """A config with everything written out that it would otherwise look up in files; most look up nothing."""
    return config.settled() if hasattr(config, "settled") else config


def config_to_json(config: object) -> dict[str, Any]:
    """A method config as JSON data; the key "name" says which method it is."""
    return {"name": method_name(config), **config_to_data(config)}


def config_from_json(data: object, *, where: str = "config.json: method") -> Any:
    """The method config that `config_to_json` wrote.

    Raises:
        UserError: for an unknown method, an unknown setting (with the nearest known one) or a wrong type.
    """
    if not isinstance(data, Mapping) or not isinstance(data.get("name"), str):
        raise UserError("no method is named", where=where, fix="Restore the run's config.json")
    entry = known_methods().get(data["name"])
    if entry is None:
        raise UserError(
            f"unknown method '{data['name']}'", where=where, fix=did_you_mean(data["name"], known_methods())
        )
    return config_from_data(entry.config, {k: v for k, v in data.items() if k != "name"}, where=where)
