"""How training goes: step, quality, time left."""

from __future__ import annotations

import math

from ...progress import TrainStatus
from ..desk import Desk, Refresh, assign
from ..room import RoomState
from .style import clock_text, short_number


def training_panel(desk: Desk) -> Refresh:
    """The numbers and a bar."""
    gui = desk.gui
    with gui.add_folder("Progress"):
        text = gui.add_markdown("_Starting_")
        bar = gui.add_progress_bar(0.0, color=(255, 138, 76), visible=False)

    def refresh(state: RoomState) -> None:
        is_running = state.status is not None and state.status.state != "done"
        assign(text, "content", training_text(state.status, state.has_scene, desk.room.training.is_paused))
        assign(bar, "value", 100.0 * share_done(state.status))
        assign(bar, "visible", is_running)

    return refresh


def training_text(status: TrainStatus | None, has_scene: bool, is_paused: bool) -> str:
    """The numbers as markdown."""
    if status is None:
        return "Finished run" if has_scene else "_Waiting for the scene_"
    total = f" of {status.max_steps:,}" if status.max_steps else ""
    word = "Paused" if is_paused and status.state != "done" else status.state.capitalize()
    lines = [f"**{word}** · step {status.step:,}{total}"]
    if math.isfinite(status.psnr):
        test = f" · test **{status.test_psnr:.2f} dB**" if status.test_psnr is not None else ""
        lines.append(f"PSNR **{status.psnr:.2f} dB**{test}")
    if status.state != "done":
        lines.append(f"{status.steps_per_s:.1f} steps/s · {short_number(status.rays_per_s)} rays/s")
        lines.append(f"{clock_text(status.train_seconds)} trained · {clock_text(status.seconds_left)} left")
    else:
        lines.append(f"Trained for {clock_text(status.train_seconds)}")
    return "  \n".join(lines)


def share_done(status: TrainStatus | None) -> float:
    """How much of the training is done, 0..1, by steps or by time, whichever is further."""
    if status is None:
        return 0.0
    by_steps = status.step / status.max_steps if status.max_steps else 0.0
    total = status.train_seconds + status.seconds_left
    by_time = status.train_seconds / total if math.isfinite(total) and total > 0 else 0.0
    return min(1.0, max(by_steps, by_time))
