"""Damage to inputs, drawn from a seeded generator: bytes anywhere, and parts of JSON, text and tables by grammar."""

from __future__ import annotations

import copy
import io
import json
import struct
import warnings
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

Mutation = Callable[[Random, bytes], bytes]

INTEGERS = (
    0,
    1,
    2,
    7,
    127,
    128,
    255,
    256,
    32767,
    65535,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
FLOATS = (0.0, -0.0, 1e-320, 1e-30, 1.0, -1.0, 1e9, 1e30, 1e300, float("inf"), float("-inf"), float("nan"))
WORDS = (
    "", "0", "-1", "1e400", "1e38", "1e-400", "nan", "NaN", "inf", "-Infinity", "9" * 30, "9" * 5000, "0x10", "1_000",
    "\u0661\u0662", "\u00b2", "true", "None", "../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "\x00",
    "$(touch x)", "\ud800", "a" * 5000, "\N{GRINNING FACE}", "C:\\x", "[", "{", '"', "#", ",", ";", "\t", "\n",
    "end_header", "property list uchar int x",
)  # fmt: skip
_MOST_BYTES = 1 << 20
"""Mutated inputs stay below this: damage is looked for, not size."""


def mutate_bytes(rng: Random, data: bytes) -> bytes:
    """One to six accidents anywhere in the bytes."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        changed = rng.choice(_ACCIDENTS)(rng, changed)
    return bytes(changed[:_MOST_BYTES])


def mutate_json(rng: Random, data: bytes) -> bytes:
    """Values, keys and shape of a JSON document; now and then its bytes."""
    if rng.random() < 0.2:
        return mutate_bytes(rng, data)
    document = json.loads(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        document = _changed_somewhere(rng, document)
    text = json.dumps(document, ensure_ascii=rng.random() < 0.5)
    if rng.random() < 0.2:
        text = _odd_token(rng, text)
    return text.encode("utf-8", "surrogatepass")[:_MOST_BYTES]


def mutate_text(rng: Random, data: bytes) -> bytes:
    """Words and lines of a text; now and then its bytes."""
    if rng.random() < 0.2:
        return mutate_bytes(rng, data)
    text = data.decode("utf-8", "surrogateescape")
    for _ in range(rng.choice((1, 1, 2, 4))):
        text = rng.choice((_other_word, _other_line))(rng, text)
    return text.encode("utf-8", "surrogatepass" if rng.random() < 0.3 else "replace")[:_MOST_BYTES]


def mutate_numbers(rng: Random, data: bytes) -> bytes:
    """Numbers of a binary table at places where one could begin; now and then any bytes."""
    if rng.random() < 0.3:
        return mutate_bytes(rng, data)
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = 4 * rng.randrange(max(1, len(changed) // 4)) + rng.choice((0, 0, 0, 1, 3))
        changed = _set_number(rng, changed, at)
    return bytes(changed)


def mutate_safetensors(rng: Random, data: bytes) -> bytes:
    """Header (lengths, names, types, shapes, offsets) and values of a tensor file."""
    kind = rng.random()
    length = int.from_bytes(data[:8], "little")
    if kind < 0.3 or len(data) < 8 + length:
        return mutate_bytes(rng, data)
    if kind < 0.4:
        return rng.choice(INTEGERS).to_bytes(8, "little") + data[8:]
    if kind < 0.6:
        return data[: 8 + length] + mutate_numbers(rng, data[8 + length :])
    header = mutate_json(rng, data[8 : 8 + length])
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def mutate_npy(rng: Random, data: bytes) -> bytes:
    """Header (a Python literal) and values of a NumPy array."""
    length = int.from_bytes(data[8:10], "little")
    kind = rng.random()
    if kind < 0.3:
        return mutate_bytes(rng, data)
    if kind < 0.5:
        return data[: 10 + length] + mutate_numbers(rng, data[10 + length :])
    header = data[10 : 10 + length].decode("latin-1")
    for _ in range(rng.choice((1, 2))):
        old = rng.choice(("'<f8'", "'<f4'", "False", "(", ")", ",", "'descr'", "shape", "3", "17", "9", "}"))
        new = rng.choice(
            ("'|O'", "'<f2'", "'>i8'", "'<U9'", "True", "((", "", "9" * 18, "-1", "2**99", "(" * 300, "'<f8'", "[]")
        )
        header = header.replace(old, new, 1)
    head = header.encode("latin-1")[:60_000]
    return data[:8] + len(head).to_bytes(2, "little") + head + data[10 + length :]


def mutate_zip(mutations: dict[str, Mutation]) -> Callable[[Random, bytes], bytes]:
    """A mutation of a zip archive without compression: of a member by its kind, of the archive, or of its bytes.

    Args:
        mutations: By the ending of the member's name.
    """

    def mutate(rng: Random, data: bytes) -> bytes:
        if rng.random() < 0.25:
            return mutate_bytes(rng, data)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
        at = rng.randrange(len(members))
        name, content = members[at]
        act = rng.random()
        if act < 0.7:
            kind = next((m for ending, m in mutations.items() if name.endswith(ending)), mutate_bytes)
            members[at] = (name, kind(rng, content))
        elif act < 0.8:
            members.pop(at)
        elif act < 0.9:
            members.append((rng.choice(("../x", "/x", "a/b", name, "weights.pt", "x" * 300)), content))
        else:
            members[at] = (rng.choice(("../x", "config.json", "thumbnails/99999.jpg")), content)
        return zipped(members, zipfile.ZIP_DEFLATED if rng.random() < 0.05 else zipfile.ZIP_STORED)

    return mutate


def zipped(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    """An archive of these members, repeated names included."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", method) as archive:
        warnings.simplefilter("ignore")  # about repeated names, which are wanted here
        for name, content in members:
            try:
                archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content, method)
            except ValueError:
                continue  # a name that the writer refuses
    return buffer.getvalue()


def _flip(rng: Random, data: bytearray) -> bytearray:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _cut(rng: Random, data: bytearray) -> bytearray:
    return data[: rng.randrange(len(data) + 1)]


def _drop(rng: Random, data: bytearray) -> bytearray:
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.choice((1, 2, 4, 8, 64, 512)) :]


def _repeat(rng: Random, data: bytearray) -> bytearray:
    at, n = rng.randrange(len(data) + 1), rng.choice((1, 8, 64, 512))
    return data[:at] + data[at : at + n] * rng.choice((2, 3, 50)) + data[at + n :]


def _insert(rng: Random, data: bytearray) -> bytearray:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice((1, 4, 8, 100))) + data[at:]


def _blank(rng: Random, data: bytearray) -> bytearray:
    at, n = rng.randrange(len(data) + 1), rng.choice((1, 4, 16, 256))
    data[at : at + n] = bytes([rng.choice((0, 0, 255, 32))]) * len(data[at : at + n])
    return data


def _write_number(rng: Random, data: bytearray) -> bytearray:
    return _set_number(rng, data, rng.randrange(len(data) + 1))


def _write_word(rng: Random, data: bytearray) -> bytearray:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(WORDS).encode("utf-8", "surrogatepass") + data[at:]


_ACCIDENTS = (_flip, _flip, _cut, _drop, _repeat, _insert, _blank, _write_number, _write_number, _write_word)


def _set_number(rng: Random, data: bytearray, at: int) -> bytearray:
    order = rng.choice("<<>")
    if rng.random() < 0.5:
        code = rng.choice("BHIQ")
        raw = struct.pack(order + code, rng.choice(INTEGERS) & (1 << 8 * struct.calcsize(code)) - 1)
    elif rng.random() < 0.5:
        raw = struct.pack(order + "d", rng.choice(FLOATS))
    else:
        value = rng.choice(FLOATS)
        raw = struct.pack(order + "f", value if abs(value) < 1e38 or value != value else value * 1e300 * 1e300)
    data[at : at + len(raw)] = raw
    return data


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value of a document, the document itself first."""
    found = [path]
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in pairs:
        found += _places(item, (*path, key))
    return found


def _changed_somewhere(rng: Random, document: Any) -> Any:
    document = copy.deepcopy(document)
    places = _places(document)
    # Places near the top decide more; a list of a thousand numbers would otherwise take nearly every turn.
    near = [p for p in places if len(p) <= 2]
    place = rng.choice(near if rng.random() < 0.6 else places)
    if not place:
        return rng.choice(([], {}, None, 3, "x", [document])) if rng.random() < 0.1 else document
    parent = document
    for key in place[:-1]:
        parent = parent[key]
    key, act = place[-1], rng.random()
    if act < 0.55:
        parent[key] = _odd_value(rng, parent[key])
    elif act < 0.75:
        del parent[key]
    elif isinstance(parent, dict):
        parent[rng.choice((*WORDS, f"{key}x", "w", "frames"))] = parent.pop(key) if act < 0.9 else parent[key]
    else:
        parent.insert(rng.randrange(len(parent) + 1), copy.deepcopy(rng.choice(parent)))
    return document


def _odd_value(rng: Random, value: Any) -> Any:
    act = rng.random()
    if isinstance(value, (int, float)) and not isinstance(value, bool) and act < 0.5:
        factor = rng.choice((0, -1, 1.0000001, 1e-9, 1e9, 1e200, 0.5, 2))
        return value * factor if abs(value) < 1e90 else -value
    if isinstance(value, list) and act < 0.5:
        return rng.choice(
            (value[:-1], value + value, value[::-1], [value], [], value * 30 if len(value) < 100 else value)
        )
    if isinstance(value, str) and act < 0.5:
        return rng.choice((value[:-1], value + value, value.upper(), f"../{value}", f"/{value}", f"{value}\x00.png"))
    other: tuple[Any, ...] = (
        None, True, False, [], {}, [[]], -1, 0.5, 10**400, [None] * 16, *INTEGERS, *FLOATS, *WORDS,
    )  # fmt: skip
    return rng.choice(other)


def _odd_token(rng: Random, text: str) -> str:
    at = rng.randrange(len(text) + 1)
    new = rng.choice(
        ("1e400", "NaN", "-Infinity", ",", '"w": 1, "w": 2,', "[" * 3000, "{", "9" * 5000, "\ufeff", "\\ud800", "\x00")
    )
    return text[:at] + new + text[at:]


def _other_word(rng: Random, text: str) -> str:
    words = text.split(" ")
    words[rng.randrange(len(words))] = rng.choice((*WORDS, *map(str, INTEGERS), *map(str, FLOATS)))
    return " ".join(words)


def _other_line(rng: Random, text: str) -> str:
    lines = text.split("\n")
    at, act = rng.randrange(len(lines)), rng.random()
    if act < 0.4:
        lines.pop(at)
    elif act < 0.7:
        lines.insert(rng.randrange(len(lines) + 1), lines[at])
    elif act < 0.85:
        lines[at] = lines[at][: rng.randrange(len(lines[at]) + 1)]
    else:
        lines[at] = rng.choice(WORDS)
    return rng.choice(("\n", "\n", "\n", "\r\n", "\r")).join(lines)
