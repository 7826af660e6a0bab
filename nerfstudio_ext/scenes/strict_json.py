"""The strict JSON reader, which path files share; see `nerfstudio_ext.strict_json`."""

from __future__ import annotations

from ..strict_json import JsonObject, as_number, as_numbers, as_text, as_texts, parse_json, read_json

__all__ = ["JsonObject", "as_number", "as_numbers", "as_text", "as_texts", "parse_json", "read_json"]
