"""`nsx doctor RUN`: which checkpoints of a run can be trusted, how it ended, what to do."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from .console import Output


def examine(path: Path, out: Output) -> int:
    """Print how a run is; 0 when there is a checkpoint and nothing is damaged, else 2."""
    from ..training.run_health import look_over

    health = look_over(path)
    rows: dict[str, object] = {
        c.folder: f"damaged: {c.fault}" if c.fault else f"intact, {c.megabytes:.1f} MB" for c in health.checkpoints
    }
    out.box(f"Run {health.path}", {"last end": health.ending.sentence})
    out.box("Checkpoints (every byte compared with its checksum)", rows or {"none": "nothing was saved"})
    if health.faults:
        out.box("Other files", {str(n): line for n, line in enumerate(health.faults, 1)})
    if health.strays:
        out.say(f"\nleft alone, no checkpoints: {', '.join(health.strays[:20])}")
    out.say(f"\n{health.advice}")
    out.result(
        {
            "run": health.path,
            "is_sound": health.is_sound,
            "checkpoints": [asdict(checkpoint) for checkpoint in health.checkpoints],
            "ending": health.ending.to_json(),
            "faults": list(health.faults),
            "strays": list(health.strays),
            "advice": health.advice,
        }
    )
    return 0 if health.is_sound else 2
