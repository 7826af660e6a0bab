"""The errors a user can meet: bad input, a back end that is not there, training that went astray."""

from __future__ import annotations

_MOST_CHARACTERS = {"where": 500, "what": 900, "fix": 400}
"""Names and values out of a damaged file can be megabytes long; the terminal gets one line that can be read."""


class UserError(Exception):
    """Something the user can fix; the command line prints it in one line and exits with 2.

    Args:
        what: What was found, with numbers ("2 usable photos; at least 8 are needed").
        where: File, option or place the message is about; empty when there is none.
        fix: What to do, as an imperative sentence.
    """

    def __init__(self, what: str, *, where: object = "", fix: str = "") -> None:
        self.what = what
        self.where = str(where)
        self.fix = fix
        super().__init__(self.line)

    @property
    def line(self) -> str:
        """The whole message on one line: `where: what. fix.`"""
        where, what, fix = (printable(getattr(self, part), most) for part, most in _MOST_CHARACTERS.items())
        head = f"{where}: " if where else ""
        tail = f" {_sentence(fix)}" if fix else ""
        return f"{head}{_sentence(what)}{tail}"


class BackendUnavailable(UserError):
    """An explicitly requested kernel back end that this machine cannot run.

    Args:
        op: Name of the operation, such as `composite`.
        backend: The back end asked for.
        reason: Why it is not available.
        fix: How to get it, or what to use instead.
    """

    def __init__(self, op: str, backend: str, reason: str, fix: str) -> None:
        self.op, self.backend, self.reason = op, backend, reason
        super().__init__(f"back end '{backend}' is not available: {reason}", where=op, fix=fix)


class TrainingFailed(Exception):
    """Training cannot go on; the last good checkpoint is kept. The text is one line; the command line exits with 1."""


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else text + "."


def printable(text: str, most: int) -> str:
    """The text in one line without control characters (a file may be named like a terminal command), not too long."""
    line = " ".join(text.split())
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line[: 4 * most])
    return shown if len(shown) <= most else f"{shown[: most - 100]} ... {shown[-80:]}"
