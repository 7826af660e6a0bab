"""What a mark can say, and how it is laid out in the message bits of a code.

Identity: 48 bits, then zeros. Text and bytes: one bit for the kind, the length in bytes, the bytes, zeros, and a
CRC-16 over all before it. Everything a reader needs to know travels in the bits.
"""

from __future__ import annotations

import binascii
import math
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...errors import UserError
from .bch import BchCode, Bits, bch_code

Kind = Literal["id48", "text", "bytes"]
ID_BITS, CRC_BITS = 48, 16


@dataclass(frozen=True)
class Message:
    """The content of a mark.

    Attributes:
        kind: "id48" (six bytes), "text" (UTF-8) or "bytes".
        data: The bytes.
    """

    kind: Kind
    data: bytes

    @classmethod
    def from_id(cls, digits: str) -> Message:
        """A 48-bit identity from 12 hexadecimal digits; `0x`, colons and hyphens are allowed.

        Raises:
            UserError: if it is not that.
        """
        plain = re.sub(r"[:\- ]", "", digits.strip().lower().removeprefix("0x"))
        if not re.fullmatch(r"[0-9a-f]{12}", plain):
            raise UserError(
                f"'{digits}' is not a 48-bit identity", where="--payload-id", fix="Give 12 hexadecimal digits"
            )
        return cls("id48", bytes.fromhex(plain))

    @classmethod
    def from_text(cls, text: str) -> Message:
        """A text of at least one character.

        Raises:
            UserError: if it is empty or cannot be written as UTF-8.
        """
        if not text:
            raise UserError("the text is empty", where="--text", fix="Give at least one character")
        try:
            return cls("text", text.encode())
        except UnicodeEncodeError:
            raise UserError(
                "the text holds a character that is not valid Unicode", where="--text", fix="Type the text again"
            ) from None

    @property
    def text(self) -> str:
        """What to show: the text itself, or hexadecimal digits."""
        return self.data.decode() if self.kind == "text" else self.data.hex()


@dataclass(frozen=True)
class Layout:
    """A code and what its message bits mean.

    Attributes:
        name: Also the domain of the key's whitening and order, so that layouts cannot be mistaken for each other.
        n: Code bits.
        t: Errors that hard decisions always correct.
        is_identity: Whether it holds an identity, else text or bytes.
    """

    name: str
    n: int
    t: int
    is_identity: bool

    @property
    def code(self) -> BchCode:
        """The BCH code; not for the uncoded layout."""
        return bch_code(self.n, self.t)

    @property
    def is_coded(self) -> bool:
        return self.t > 0

    @property
    def k(self) -> int:
        """Message bits."""
        return self.code.k if self.is_coded else self.n

    @property
    def free_bits(self) -> int:
        """Message bits, counted from the first, that may be other than zero."""
        return ID_BITS if self.is_identity else self.k

    @property
    def max_bytes(self) -> int:
        """Longest message in bytes."""
        if self.is_identity:
            return ID_BITS // 8
        room = self.k - CRC_BITS - 1
        return next(size for size in range(room // 8, -1, -1) if size.bit_length() + 8 * size <= room)

    def log2_messages(self, message: Message) -> float:
        """Logarithm to base 2 of how many messages compete with this one.

        Each length gets an equal share of the allowed false alarms, so that a short text is believed sooner than a
        long one.
        """
        if self.is_identity:
            return float(ID_BITS)
        return 1 + 8 * len(message.data) + math.log2(self.max_bytes)

    def pack(self, message: Message) -> Bits:
        """The k message bits.

        Raises:
            UserError: if the message does not fit.
        """
        if self.is_identity != (message.kind == "id48") or len(message.data) > self.max_bytes:
            kind = "an identity" if self.is_identity else f"{self.max_bytes} bytes"
            raise UserError(
                f"a message of kind {message.kind} and {len(message.data)} bytes; {self.name} holds {kind}",
                fix="Use another --code, or a shorter message",
            )
        body = np.unpackbits(np.frombuffer(message.data, np.uint8))
        if self.is_identity:
            return np.concatenate([body, np.zeros(self.k - ID_BITS, np.uint8)])
        header = [int(message.kind == "bytes"), *_to_bits(len(message.data), self.max_bytes.bit_length())]
        padding = np.zeros(self.k - CRC_BITS - len(header) - len(body), np.uint8)
        frame = np.concatenate([np.array(header, np.uint8), body, padding])
        return np.concatenate([frame, np.array(_to_bits(_crc(frame), CRC_BITS), np.uint8)])

    def unpack(self, bits: Bits) -> Message | None:
        """The message; None where a bit that must be zero is not, the CRC is wrong, or a text is not UTF-8."""
        if self.is_identity:
            return None if bits[ID_BITS:].any() else Message("id48", np.packbits(bits[:ID_BITS]).tobytes())
        frame, crc = bits[:-CRC_BITS], bits[-CRC_BITS:]
        start = 1 + self.max_bytes.bit_length()
        n_bytes = _to_number(frame[1:start])
        end = start + 8 * n_bytes
        if not 1 <= n_bytes <= self.max_bytes or frame[end:].any() or _crc(frame) != _to_number(crc):
            return None
        data = np.packbits(frame[start:end]).tobytes()
        if frame[0]:
            return Message("bytes", data)
        try:
            data.decode()
        except UnicodeDecodeError:
            return None
        return Message("text", data)


LAYOUTS = (
    Layout("id-127", 127, 13, True),
    Layout("data-127-64", 127, 10, False),
    Layout("data-127-92", 127, 5, False),
    Layout("id-255", 255, 31, True),
    Layout("data-255-131", 255, 18, False),
    Layout("data-511-259", 511, 30, False),
)
"""What a reader tries, and a writer chooses from: the first that fits. 127 bits suit the public extractor's 128
features; the longer codes are for wider, private ones. BCH(255,47) is one bit short of an identity."""
UNCODED = Layout("id-48", 48, 0, True)
"""Nothing but the identity: the fewest bits, but every picture reads as some identity. A reader can only compare it
with identities it is given."""


def layout_named(name: str) -> Layout:
    """The layout of that name; a `UserError` lists the names there are."""
    known = {layout.name: layout for layout in (*LAYOUTS, UNCODED)}
    if name not in known:
        raise UserError(f"no code is called '{name}'", where="--code", fix=f"Choose one of {', '.join(known)}")
    return known[name]


def smallest_layout(message: Message, max_bits: int | None = None) -> Layout:
    """The layout with the fewest code bits, and then the most check bits, that holds the message.

    Args:
        message: What is to be said.
        max_bits: Code bits that the extractor can carry; None: any number.
    Raises:
        UserError: if the message is empty or none holds it; says how many bytes would fit.
    """
    if message.data:
        usable = [layout for layout in LAYOUTS if max_bits is None or layout.n <= max_bits]
        right = [layout for layout in usable if layout.is_identity == (message.kind == "id48")]
        for layout in right:
            if len(message.data) <= layout.max_bytes:
                return layout
        most = max((layout.max_bytes for layout in right), default=0)
        limit = f" in {max_bits} code bits" if max_bits is not None else ""
        what = f"the message has {len(message.data)} bytes; at most {most} fit{limit}"
        raise UserError(what, fix="Shorten it, or mark with a 48-bit identity and keep the text beside it")
    raise UserError("the message is empty", fix="Give at least one byte")


def _to_bits(value: int, n: int) -> list[int]:
    return [value >> i & 1 for i in range(n - 1, -1, -1)]


def _to_number(bits: Bits) -> int:
    return int("".join(map(str, bits.tolist())), 2)


def _crc(frame: Bits) -> int:
    """CRC-16 (polynomial 0x1021, start value 0xFFFF) of the bits, the last byte filled up with zeros."""
    return binascii.crc_hqx(np.packbits(frame).tobytes(), 0xFFFF)
