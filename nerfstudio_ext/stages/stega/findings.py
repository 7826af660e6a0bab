"""What an extraction says: of all pictures together, and of each."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .messages import Layout, Message

_CONVINCING_VIEW = 1e-3
"""Largest p-value at which one picture of several counts as showing the message."""


@dataclass(frozen=True)
class ViewFinding:
    """What one picture contributes.

    Attributes:
        name: Of the picture.
        scale: Its size relative to the size it was marked at; None where nothing was found, or it was left out.
        bit_accuracy: Share of the message's code bits that its signs have right; None without a message in question.
        p_value: Chance that a wrong key agrees as well with the message on this picture alone; None likewise.
        confidence: What speaks for the message minus what speaks against it, as a share of both: 0 by chance, 1 at
            most; None likewise.
    """

    name: str
    scale: float | None
    bit_accuracy: float | None
    p_value: float | None
    confidence: float | None

    @property
    def shows_it(self) -> bool:
        """Whether this picture alone would have let one believe a message that was known beforehand."""
        return self.p_value is not None and self.p_value <= _CONVINCING_VIEW


@dataclass(frozen=True)
class Extraction:
    """The answer to: what do these pictures say under this key?

    Attributes:
        present: Whether a message was found.
        message: It, exactly; None when none was found.
        layout: The code it is written in; None likewise.
        bit_accuracy: Share of the code bits of the expected message that were right; None when none was expected.
            Where nothing hints at it, it is that at the pictures' own size and in the usual code: chance gives half.
        p_value: Bound on the chance that an unmarked picture or a wrong key looks as convincing, over everything tried.
        p_value_random_keys: Chance that a random key does as well on these pictures, from up to 2000 of them.
        p_values_disagree: Random keys do as well far more often than the bound allows: the message is not believed.
        views: What each picture contributes.
        warnings: Lines for people.
    """

    present: bool
    message: Message | None
    layout: Layout | None
    bit_accuracy: float | None
    p_value: float
    p_value_random_keys: float
    p_values_disagree: bool
    views: tuple[ViewFinding, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values; the accuracy only where a message was expected."""
        payload = None
        if self.message is not None and self.layout is not None:
            message = self.message
            payload = {
                "kind": message.kind, "text": message.text, "hex": message.data.hex(), "code": self.layout.name
            }  # fmt: skip
        accuracy = {} if self.bit_accuracy is None else {"bit_accuracy": self.bit_accuracy}
        return {
            "present": self.present,
            "payload": payload,
            **accuracy,
            "p_value": self.p_value,
            "p_value_random_keys": self.p_value_random_keys,
            "views": [asdict(view) for view in self.views],
        }

    @property
    def n_showing(self) -> int:
        """Pictures that show the message by themselves."""
        return sum(view.shows_it for view in self.views)
