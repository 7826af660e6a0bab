"""What `nsx train --resume` refuses: another capture, other settings of it, another version, unless told to go on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import UserError

if TYPE_CHECKING:
    from ..scenes.model import Scene
    from ..training.config import RunConfig
    from ..training.runs import Run

WHERE = "nsx train --resume"


def refuse_settings(options: Any, config: RunConfig) -> None:
    """Refuse settings that made the run what it is and cannot be changed on the way.

    Args:
        options: `TrainOptions`.
        config: Of the run.
    Raises:
        UserError: naming each with both values.
    """
    from .train import DEFAULT_MAX_SIDE

    source = config.source
    pairs = {
        "--downscale-factor": (options.downscale_factor, None, source.downscale),
        "--max-side": (options.max_side or None, DEFAULT_MAX_SIDE, source.max_side),
        "--split-every": (options.split_every, 8, source.split_every),
        "--seed": (options.train.seed, 0, config.train.seed),
    }
    wrong = [
        f"{flag} {asked} (the run has {trained})"
        for flag, (asked, default, trained) in pairs.items()
        if asked not in (default, trained)
    ]
    if wrong:
        raise UserError(f"cannot be changed: {', '.join(wrong)}", where=WHERE, fix="Leave it out, or start a new run")


def refuse_changes(run: Run, now: Scene, *, is_allowed: bool) -> None:
    """Refuse to go on with other photos, poses or another version than the run was trained with.

    Args:
        run: The run, open for writing.
        now: Its capture, as it was just loaded.
        is_allowed: Go on all the same, and note what has changed in config.json.
    Raises:
        UserError: naming everything that differs.
    """
    from ..training.capture_identity import FILE, changes_since, identity_of, read_identity
    from ..training.runs import write_json

    lines = changes_since(read_identity(run.path), run.scene_meta(), now)
    if run.config.version != __version__:
        lines.append(f"the version of this program ({run.config.version or 'unknown'} -> {__version__})")
    if not lines:
        return
    if not is_allowed:
        raise UserError(
            f"changed since this run was trained: {'; '.join(lines)}", where=run.path,
            fix="Restore it, or go on all the same with --allow-changed, which notes it in config.json",
        )  # fmt: skip
    run.note_changes([f"resumed with changed: {line}" for line in lines])
    write_json(run.path / FILE, identity_of(now))
