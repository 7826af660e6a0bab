"""Message to code bits and back: whitening, error correction, order; and never a message that was not there.

Writing: message bits, BCH, shuffled by the key, XOR with the key's stream. Whitening comes last because all zeros and
all ones are codewords in any order: an extractor stuck on one sign would read as a message. Reading: likely words by
soft decisions and the one within t hard errors; those that unpack to a message compete; the best is believed only if
chance would produce as good an agreement with any message at all less often than the reader allows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError
from .bch import Bits
from .keys import Key
from .messages import LAYOUTS, UNCODED, Layout, Message, smallest_layout
from .soft_decoding import Logits, likely_codewords
from .statistics import log2_agreement_bound, pay_for_dependent_trials

MAX_FALSE_ALARM = 1e-6
"""Chance of reading a message where there is none, over everything tried on one picture."""
_EXHAUSTIVE_ORDER, _LONG_ORDER, _LONG = 3, 2, 300
"""Flips tried per code length: three cost 12 ms at 255 bits and would cost a second at 511."""


@dataclass(frozen=True)
class Reading:
    """A message found in logits.

    Attributes:
        message: What it says, exactly.
        layout: The code it was written in.
        bits: [n] code bits as written.
        errors: Code bits that the signs of the logits had wrong.
        false_alarm: Bound on the chance that an unmarked picture or a wrong key gives any message this convincingly;
            everything tried is paid for.
    """

    message: Message
    layout: Layout
    bits: Bits
    errors: int
    false_alarm: float

    @property
    def bit_accuracy(self) -> float:
        """Share of the code bits that were right before correction."""
        return 1 - self.errors / self.layout.n


def write_code(message: Message, key: Key, layout: Layout | None = None) -> Bits:
    """The code bits that carry a message.

    Args:
        message: What to say.
        key: Needed again for reading.
        layout: The code; None for the smallest that holds the message.
    Returns:
        [n] bits, as many zeros as ones but for chance, whatever the message.
    Raises:
        UserError: if the message does not fit.
    """
    layout = layout or smallest_layout(message)
    packed = layout.pack(message)
    return _scramble(layout.code.encode(packed) if layout.is_coded else packed, layout, key)


def read_code(
    logits: Logits, key: Key, *, max_false_alarm: float = MAX_FALSE_ALARM, trials: float = 1,
    layouts: Sequence[Layout] = LAYOUTS,
) -> Reading | None:  # fmt: skip
    """Find the message in logits, or nothing.

    Args:
        logits: [N] of code bits, positive for a one; layouts with more than N bits are not tried.
        key: The key it was written with.
        max_false_alarm: Largest bound that is believed.
        trials: How many such readings the caller takes of the same pictures (scales, orientations); paid for. More
            generally one over this reading's share of the false alarms that the caller allows in all.
        layouts: Codes to try; the uncoded one cannot be read (see `recognise`).
    Returns:
        The most certain message, or None.
    Raises:
        UserError: if a logit is not finite.
    """
    logits = _checked(logits)
    usable = [layout for layout in layouts if layout.is_coded and layout.n <= len(logits)]
    found: list[Reading] = []
    for layout in usable:
        placed = place_logits(logits, layout, key)
        share = _share(layout, usable) / trials
        for message, codeword in _best_messages(layout, placed):
            bound = 2.0 ** log2_agreement_bound(placed, codeword, layout.log2_messages(message))
            errors = int(np.count_nonzero((placed > 0) != (codeword > 0)))
            found.append(Reading(message, layout, _scramble(codeword, layout, key), errors, min(1.0, bound / share)))
    best = min(found, key=lambda reading: reading.false_alarm, default=None)
    return best if best is not None and best.false_alarm <= max_false_alarm else None


def recognise(
    logits: Logits, key: Key, messages: Sequence[Message], *, max_false_alarm: float = MAX_FALSE_ALARM,
    trials: float = 1, layouts: Sequence[Layout] = (UNCODED, *LAYOUTS),
) -> Reading | None:  # fmt: skip
    """Which of some known messages the logits carry, or none of them.

    Far fewer bits are needed than for reading: only the messages given compete. This is how an uncoded identity is
    found, and several owners are told apart.

    Args:
        logits: [N] of code bits, positive for a one.
        key: The key it was written with.
        messages: The messages in question.
        max_false_alarm: Largest bound that is believed.
        trials: How many such looks the caller takes of the same pictures; paid for.
        layouts: Codes it may have been written in; those that are longer than the logits, or too small, are not tried.
    Returns:
        The most certain message, or None.
    Raises:
        UserError: if a logit is not finite.
    """
    logits = _checked(logits)
    written = [
        (message, layout, write_code(message, key, layout))
        for message in messages
        for layout in layouts
        if layout.n <= len(logits) and fits(message, layout)
    ]
    found = []
    for message, layout, bits in written:
        bound = 2.0 ** log2_agreement_bound(logits[: layout.n], bits, 0.0)
        errors = int(np.count_nonzero((logits[: layout.n] > 0) != (bits > 0)))
        found.append(Reading(message, layout, bits, errors, pay_for_dependent_trials(bound, len(written) * trials)))
    best = min(found, key=lambda reading: reading.false_alarm, default=None)
    return best if best is not None and best.false_alarm <= max_false_alarm else None


def place_logits(logits: NDArray[np.floating], layout: Layout, key: Key) -> Logits:
    """Logits of code bits as they come from the picture [..,N], in the order and signs of the codeword [..,n]."""
    placed = np.empty((*logits.shape[:-1], layout.n))
    placed[..., _order(layout, key)] = logits[..., : layout.n] * (1.0 - 2.0 * _whitening(layout, key))
    return placed


def _share(layout: Layout, usable: Sequence[Layout]) -> float:
    """Share of the allowed false alarms that a layout gets.

    Identities, which most marks are, get one half of it, texts and bytes the other.
    """
    alike = [other for other in usable if other.is_identity == layout.is_identity]
    return (1.0 if len(alike) == len(usable) else 0.5) / len(alike)


def _best_messages(layout: Layout, placed: Logits) -> Iterator[tuple[Message, Bits]]:
    """Messages worth looking at, with their codewords.

    Among messages that compete with equally many others, only the one that agrees best can be the most certain.
    """
    best: dict[float, tuple[float, Message, Bits]] = {}
    for codeword in _candidates(layout, placed):
        message = layout.unpack(codeword[: layout.k])
        if message is None:
            continue
        group, score = layout.log2_messages(message), float(placed @ (2.0 * codeword - 1.0))
        if group not in best or score > best[group][0]:
            best[group] = (score, message, codeword)
    return ((message, codeword) for _, message, codeword in best.values())


def _candidates(layout: Layout, placed: Logits) -> Iterator[Bits]:
    """Codewords worth looking at: the likely ones, and the one that hard decisions guarantee up to t errors."""
    hard = layout.code.decode((placed > 0).astype(np.uint8))
    if hard is not None:
        yield hard[0]
    order = _EXHAUSTIVE_ORDER if layout.n < _LONG else _LONG_ORDER
    yield from likely_codewords(layout.code.generator[: layout.free_bits], placed, order=order)


def _scramble(codeword: Bits, layout: Layout, key: Key) -> Bits:
    """Codeword to code bits of the picture."""
    return codeword[_order(layout, key)] ^ _whitening(layout, key)


def _whitening(layout: Layout, key: Key) -> Bits:
    return key.bits(f"whitening {layout.name}", layout.n)


def _order(layout: Layout, key: Key) -> NDArray[np.int64]:
    """Code bit i of the picture is bit `order[i]` of the codeword, whitened."""
    return key.permutation(f"order {layout.name}", layout.n)


def fits(message: Message, layout: Layout) -> bool:
    """Whether a layout can hold a message."""
    return layout.is_identity == (message.kind == "id48") and 1 <= len(message.data) <= layout.max_bytes


def _checked(logits: Logits) -> Logits:
    logits = np.asarray(logits, np.float64)
    if logits.ndim != 1 or not np.isfinite(logits).all():
        raise UserError("the extractor's output is not finite", fix="Check the picture and the decoder file")
    return logits
