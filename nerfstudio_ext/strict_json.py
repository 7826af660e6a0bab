"""JSON from strangers, read strictly: no NaN, no duplicate keys, no unbounded size or depth."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .errors import UserError

MAX_JSON_BYTES = 64 * 2**20
"""A capture of 10,000 frames takes about 10 MB; anything far above is not a capture description."""

JsonObject = dict[str, Any]
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


class _Refused(ValueError):
    """Raised by the parser's hooks; `locate` decides which token it was."""

    def __init__(self, what: str, is_culprit: Callable[[str, bool], bool]) -> None:
        super().__init__(what)
        self.what, self.is_culprit = what, is_culprit


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> JsonObject:
    """Read a file that holds one JSON object.

    Args:
        path: The file, UTF-8 with or without a byte order mark.
        max_bytes: Larger files are refused before they are read.
    Raises:
        UserError: if the file is missing, too large, not UTF-8, not valid JSON, too deep, not an object, or holds NaN,
            Infinity, a number beyond float64 or a key twice. Names line and place.
    """
    fix = "Write the file again, or repair it by hand"
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise UserError("not a regular file", where=path, fix="Pass the file itself")
        if size > max_bytes:
            raise UserError(
                f"{size / 2**20:.0f} MB of JSON; at most {max_bytes / 2**20:.0f} MB are read",
                where=path,
                fix="Pass the right file",
            )
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError("no such file", where=path, fix="Check the path") from None
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 text (byte {error.start})", where=path, fix="Save it as UTF-8") from None
    except OSError as error:
        raise UserError(
            f"cannot be read: {error.strerror}", where=path, fix="Check the disk and the file's mode"
        ) from None
    return parse_json(text, where=path.name, fix=fix)


def parse_json(text: str, *, where: str, fix: str = "") -> JsonObject:
    """Parse one JSON object strictly; see `read_json`."""
    if not text.strip():
        raise UserError("the file is empty", where=where, fix=fix)
    try:
        value = json.loads(
            text, parse_constant=_refuse_constant, parse_float=_finite_float, object_pairs_hook=_unique_keys
        )
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, column {error.colno}"
        raise UserError(f"not valid JSON at {at}: {error.msg}", where=where, fix=fix) from None
    except _Refused as error:
        line, place = _locate(text, error.is_culprit)
        raise UserError(f"{error.what} at line {line} ({place})", where=where, fix=fix) from None
    except RecursionError:
        raise UserError("nested too deeply to be a description of a capture", where=where, fix=fix) from None
    except ValueError as error:  # an integer of thousands of digits
        raise UserError(f"not usable JSON: {error}", where=where, fix=fix) from None
    if not isinstance(value, dict):
        raise UserError(f"expected a JSON object, found {_type_name(value)}", where=where, fix=fix)
    return value


def as_number(value: object, where: str) -> float:
    """The value as a finite float; `where` names it in the error."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UserError(f"expected a number, found {_type_name(value)}", where=where, fix="Correct the value")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise UserError("expected a finite number", where=where, fix="Correct the value")
    return number


def as_numbers(value: object, where: str, count: int | None = None) -> list[float]:
    """The value as a list of finite floats, of `count` entries where given."""
    if not isinstance(value, list) or (count is not None and len(value) != count):
        n = f"{count} " if count is not None else ""
        found = f"a list of {len(value)}" if isinstance(value, list) else _type_name(value)
        raise UserError(f"expected a list of {n}numbers, found {found}", where=where, fix="Correct the value")
    return [as_number(entry, f"{where}[{i}]") for i, entry in enumerate(value)]


def as_text(value: object, where: str) -> str:
    """The value as a string."""
    if not isinstance(value, str):
        raise UserError(f"expected text, found {_type_name(value)}", where=where, fix="Correct the value")
    return value


def as_texts(value: object, where: str) -> list[str]:
    """The value as a list of strings."""
    if not isinstance(value, list):
        raise UserError(f"expected a list of texts, found {_type_name(value)}", where=where, fix="Correct the value")
    return [as_text(entry, f"{where}[{i}]") for i, entry in enumerate(value)]


def _type_name(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _refuse_constant(token: str) -> float:
    raise _Refused(f"{token} is not a number", lambda other, is_duplicate: other == token)


def _finite_float(token: str) -> float:
    number = float(token)
    if math.isinf(number):
        raise _Refused(f"{token} is too large for a number", lambda other, is_duplicate: other == token)
    return number


def _unique_keys(pairs: list[tuple[str, Any]]) -> JsonObject:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _Refused(f"the key '{twice}' appears twice", lambda other, is_duplicate: is_duplicate)
    return found


def _locate(text: str, is_culprit: Callable[[str, bool], bool]) -> tuple[int, str]:
    """Line and place (`frames[3].w`) of the first token that `is_culprit(token, is_a_repeated_key)` accepts."""
    for token, start, place, is_duplicate in _tokens_with_places(text):
        if is_culprit(token, is_duplicate):
            return text.count("\n", 0, start) + 1, place
    return 1, "unknown place"


def _tokens_with_places(text: str) -> Iterator[tuple[str, int, str, bool]]:
    """Tokens of text that the JSON parser has accepted so far, with the place each stands at."""
    stack: list[list[Any]] = []  # [is_object, step of the place: key or index, keys seen, expects a key]
    for match in _TOKEN.finditer(text):
        token, is_duplicate = match.group(), False
        top = stack[-1] if stack else None
        if token in "}]":
            if top is not None:  # what follows the text that was accepted may close more than was opened
                stack.pop()
            continue
        if token == "," and top is not None:
            top[3] = top[0]
            top[1] = "" if top[0] else top[1] + 1
            continue
        if top is not None and top[0] and top[3] and token.startswith('"'):
            key = json.loads(token)
            is_duplicate = key in top[2]
            top[2].add(key)
            top[1], top[3] = key, False
        place = "".join(f".{s[1]}" if s[0] else f"[{s[1]}]" for s in stack).lstrip(".")
        yield token, match.start(), place or "top level", is_duplicate
        if token in "{[":
            stack.append([token == "{", "" if token == "{" else 0, set(), token == "{"])
