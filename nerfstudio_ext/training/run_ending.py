"""How the last session of a run ended: noted when it closes, so that a missing note means that it was killed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from ..errors import UserError
from ..methods.config_json import config_from_data
from ..strict_json import read_json
from .run_lock import lock_holder

FILE = "ended.json"
Kind = Literal["done", "signal", "failed", "killed", "running", "unknown"]


@dataclass(frozen=True)
class Ending:
    """The end of a session.

    Attributes:
        kind: "done": to its last step; "signal": it was told to stop, and saved; "failed": by an error; "killed": it
            vanished without closing the run; "running": it has not ended; "unknown": the run does not say.
        said: For people: the signal, the error, the number of the process.
    """

    kind: Kind
    said: str = ""

    def to_json(self) -> dict[str, str]:
        """As JSON data."""
        return asdict(self)

    @property
    def sentence(self) -> str:
        """For people, such as "killed (process 71 left without closing the run)"."""
        return f"{self.kind} ({self.said})" if self.said else self.kind


def ending_of(run: Path) -> Ending:
    """How the last session of a run ended; reads only."""
    state, pid = lock_holder(run / "lock")
    if state == "held":
        return Ending("running", f"process {pid}")
    if state == "stale":
        return Ending("killed", f"process {pid} left without closing the run")
    path = run / FILE
    if not path.exists():
        return Ending("unknown", "it left no note")
    try:
        return config_from_data(Ending, read_json(path), where=FILE)
    except UserError as error:
        return Ending("unknown", error.line)
