"""The whole protocol in one command; see the package."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...errors import UserError

DEFAULT_BUDGET = 460.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 when all checks hold, 1 when one failed, 2 without a usable GPU."""
    options = _parser().parse_args(argv)
    try:
        results = measure(options.out, options.data, options.budget, options.only)
    except UserError as error:
        sys.stderr.write(f"error: {error.line}\n")
        return 2
    return 1 if results["failed_checks"] else 0


def measure(
    out: Path | None = None,
    data: Path | None = None,
    budget: float = DEFAULT_BUDGET,
    only: Sequence[str] | None = None,
    write: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    """Run the protocol; returns what was written.

    Args:
        out: The JSON file; default: in a new folder here.
        data: A capture in Blender's format; None takes a computed ball.
        budget: Seconds for everything.
        only: Phases; None takes all.
        write: Gets lines for people; default: standard output.
    Raises:
        UserError: without a usable GPU, or if the capture is not there.
    """
    from .. import rtc

    reason = rtc.absence()
    if reason:
        fix = "Use a machine with an NVIDIA GPU and a CUDA build of torch"
        raise UserError(reason, where="nsx bench cuda", fix=fix)
    if data is not None and not (data / "transforms_train.json").is_file():
        raise UserError("it has no transforms_train.json", where=data, fix="Name a capture in Blender's format")
    from .protocol import Protocol
    from .report import Report

    out = out or Path(f"bench_cuda-{time.strftime('%Y%m%d-%H%M%S')}") / "results.json"
    report = Report(out, budget, write)
    Protocol(report, data).run(only)
    report.say(f"results: {out}")
    return report.data


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m nerfstudio_ext.kernels.bench_cuda", description=__doc__)
    parser.add_argument("--out", type=Path, help="JSON file of all results (default: in a new folder)")
    parser.add_argument("--data", type=Path, help="capture in Blender's format (default: a computed ball)")
    parser.add_argument("--budget", type=float, default=DEFAULT_BUDGET, help="seconds for everything")
    parser.add_argument("--only", nargs="*", help="phases to run (default: all)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
