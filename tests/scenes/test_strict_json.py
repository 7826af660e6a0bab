"""The strict reader: what Python's own would let pass is refused with line and place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nerfstudio_ext.errors import UserError
from nerfstudio_ext.strict_json import as_number, as_numbers, parse_json, read_json

DOCUMENT = '{{\n "a": [1, {{"b": 2}}],\n "frames": [\n  {{"m": [[1, 2], [3, {0}]]}}\n ]\n}}'


@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity"])
def test_no_constants(token: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_json(DOCUMENT.format(token), where="x.json")
    assert caught.value.line == f"x.json: {token} is not a number at line 4 (frames[0].m[1][1])."


def test_no_number_beyond_float64() -> None:
    with pytest.raises(UserError) as caught:
        parse_json(DOCUMENT.format("1e400"), where="x.json")
    assert caught.value.line == "x.json: 1e400 is too large for a number at line 4 (frames[0].m[1][1])."


def test_no_key_twice() -> None:
    text = '{"w": 1,\n "frames": [{"w": 2}, {"h": 1, "x": "w\\" : {[,", "w": 3,\n "h": 4}]}'
    with pytest.raises(UserError) as caught:
        parse_json(text, where="x.json")
    assert caught.value.line == "x.json: the key 'h' appears twice at line 3 (frames[1].h)."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("  \n", "the file is empty"),
        ("[1, 2]", "expected a JSON object, found a list"),
        ('{"a": 1,\n "b" 2}', "not valid JSON at line 2, column 6: Expecting ':' delimiter"),
        ('{"a": ' + "[" * 100_000, "nested too deeply"),
        ('{"a": ' + "9" * 10_000 + "}", "not usable JSON"),
    ],
)
def test_other_refusals(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_json(text, where="x.json")
    assert message in caught.value.line


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('{"a": 1}'.encode("utf-16"), "not UTF-8 text"),
        (b'{"a": "\xff"}', "not UTF-8 text (byte 7)"),
        (b'{"a": 1}' + b" " * 100, "0 MB of JSON; at most 0 MB are read"),
    ],
)
def test_files(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        read_json(path, max_bytes=50)
    assert message in caught.value.line and str(path) in caught.value.line


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file. Check the path"):
        read_json(tmp_path / "x.json")
    with pytest.raises(UserError, match="not a regular file"):
        read_json(tmp_path)


def test_values() -> None:
    assert as_number(3, "x") == 3.0 and as_numbers([1, 2.5], "x", 2) == [1.0, 2.5]
    for value, found in [(True, "true or false"), ("3", "text"), (None, "null"), ([1], "a list"), ({}, "an object")]:
        with pytest.raises(UserError, match=f"x: expected a number, found {found}"):
            as_number(value, "x")
    with pytest.raises(UserError, match="x: expected a finite number"):
        as_number(10**400, "x")
    with pytest.raises(UserError, match=r"x: expected a list of 3 numbers, found a list of 2"):
        as_numbers([1, 2], "x", 3)
    with pytest.raises(UserError, match=r"x\[1\]: expected a number"):
        as_numbers([1, "2"], "x")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
@settings(max_examples=40, deadline=None)
def test_what_json_itself_writes_is_read_back(value: object) -> None:
    assert parse_json(json.dumps({"value": value}), where="x") == {"value": value}
