"""Frozen config dataclasses to plain JSON data and back, strictly: what is not understood is refused by name."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from ..errors import UserError

T = TypeVar("T")


def config_to_data(config: object) -> dict[str, Any]:
    """A config dataclass as JSON data: dicts, lists, numbers, strings, booleans and None."""
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"{type(config).__name__} is not a config dataclass")
    return {field.name: _to_data(getattr(config, field.name)) for field in dataclasses.fields(config)}


def config_from_data(cls: type[T], data: object, *, where: str) -> T:
    """Build a config dataclass from JSON data. Missing keys take their defaults.

    Args:
        cls: The dataclass.
        data: What was parsed from JSON.
        where: File and place, for messages ("config.json: method").
    Raises:
        UserError: for an unknown key (with the nearest known one), a wrong type, or a number that is not finite.
    """
    if not isinstance(data, Mapping):
        raise UserError(
            f"expected an object with settings, got {_shown(data)}",
            where=where,
            fix="Restore the file, or repair it by hand",
        )
    hints = typing.get_type_hints(cls)
    known = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in known:
            raise UserError(f"unknown setting '{key}'", where=where, fix=did_you_mean(str(key), known))
    needed = [name for name, field in known.items() if _is_required(field) and name not in data]
    if needed:
        raise UserError(f"setting '{needed[0]}' is missing", where=where, fix="Restore the file, or repair it by hand")
    return cls(**{key: _from_data(hints[key], value, f"{where}.{key}") for key, value in data.items()})


def did_you_mean(word: str, known: typing.Iterable[str]) -> str:
    """A sentence that offers the nearest known word, or lists them all."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(names)}"


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the settings that differ between two config data trees, each with both values."""
    lines = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += changed_settings(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key} ({_shown(old)} -> {_shown(new)})")
    return lines


def _is_required(field: dataclasses.Field) -> bool:  # type: ignore[type-arg]
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _to_data(value: object) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return config_to_data(value)
    if isinstance(value, (tuple, list)):
        return [_to_data(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _to_data(item) for key, item in value.items()}
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a config cannot hold a {type(value).__name__}")


def _from_data(hint: Any, value: object, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin is typing.Annotated:
        return _from_data(args[0], value, where)
    if origin in (Union, types.UnionType):
        return _one_of(args, value, where)
    if origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in args):
            return value
        raise UserError(f"{_shown(value)} is not allowed", where=where, fix=did_you_mean(str(value), map(str, args)))
    if origin is tuple:
        return _tuple(args, value, where)
    if origin is dict and isinstance(value, Mapping):
        return dict(value)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return config_from_data(hint, value, where=where)
    return _scalar(hint, value, where)


def _scalar(hint: Any, value: object, where: str) -> Any:
    if hint is type(None) and value is None:
        return None
    # Compared, not converted: an integer of a thousand digits has no float. NaN and infinity fail the comparison.
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300:
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint in (int, bool, str) and type(value) is hint:
        return value
    raise UserError(
        f"expected {getattr(hint, '__name__', hint)}, got {_shown(value)}",
        where=where,
        fix="Restore the file, or repair it by hand",
    )


def _tuple(args: tuple[Any, ...], value: object, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise UserError(
            f"expected a list, got {_shown(value)}", where=where, fix="Restore the file, or repair it by hand"
        )
    hints = [args[0]] * len(value) if len(args) == 2 and args[1] is Ellipsis else list(args)
    if len(hints) != len(value):
        raise UserError(
            f"expected {len(hints)} values, got {len(value)}", where=where, fix="Restore the file, or repair it by hand"
        )
    return tuple(_from_data(h, v, f"{where}[{i}]") for i, (h, v) in enumerate(zip(hints, value, strict=True)))


def _one_of(args: tuple[Any, ...], value: object, where: str) -> Any:
    if value is None and type(None) in args:
        return None
    first_error: UserError | None = None
    for hint in args:
        if hint is type(None):
            continue
        try:
            return _from_data(hint, value, where)
        except UserError as error:
            first_error = first_error or error
    raise first_error or UserError(
        f"{_shown(value)} is not allowed", where=where, fix="Restore the file, or repair it by hand"
    )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
