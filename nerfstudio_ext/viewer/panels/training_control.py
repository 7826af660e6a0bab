"""Steering a running training: pause, learning rate, reset, snapshots, how much of the time the view may take."""

from __future__ import annotations

import math

import viser

from ...progress import TrainRequest
from ..desk import Desk, Refresh, assign
from ..planner import TRAIN_SHARE
from ..room import RoomState
from .style import CALM, WARM

SPEEDS = {"Fast training": (0.01, 512), "Balanced": (TRAIN_SHARE, 4096), "Fast view": (0.25, 4096)}
"""Share of the time for refreshing still views, and the longest side while training."""
NO_SNAPSHOT = "none yet"
LR_DECADES = 2.0
"""The learning rate may be changed by a factor of a hundred either way."""


def training_control_panel(desk: Desk) -> Refresh | None:
    """The controls; only where there is a training to steer."""
    if not desk.room.has_trainer:
        return None
    gui, training = desk.gui, desk.room.training
    with gui.add_folder("Control"):
        pause = gui.add_button("Pause training", icon=viser.Icon.PLAYER_PAUSE)
        speed = gui.add_dropdown(
            "Time goes to", tuple(SPEEDS), initial_value="Balanced",
            hint="How much refreshing still views may take from training; whoever moves is always served",
        )  # fmt: skip
        rate = gui.add_slider(
            "Learning rate", -LR_DECADES, LR_DECADES, 0.1, math.log10(training.lr_factor),
            hint="Powers of ten times the planned rate: 0 leaves it, -1 is a tenth",
        )  # fmt: skip
    with gui.add_folder("Snapshots"):
        save = gui.add_button("Save snapshot", icon=viser.Icon.DEVICE_FLOPPY, color=CALM)
        chosen = gui.add_dropdown("Snapshot", (NO_SNAPSHOT,), initial_value=NO_SNAPSHOT)
        load = gui.add_button("Go on from snapshot", icon=viser.Icon.HISTORY, color=CALM)
        reset = gui.add_button("Reset training", icon=viser.Icon.REFRESH, color=WARM)
        text = gui.add_markdown("")

    def toggle() -> None:
        training.set_paused(pause.label == "Pause training")
        refresh_pause()

    def refresh_pause() -> None:
        assign(pause, "label", "Resume training" if training.is_paused else "Pause training")
        assign(pause, "icon", viser.Icon.PLAYER_PLAY if training.is_paused else viser.Icon.PLAYER_PAUSE)

    def set_speed() -> None:
        share, side = SPEEDS[speed.value]
        desk.room.scheduler.redraw(max_side=side, train_share=share)

    def load_chosen() -> None:
        if chosen.value != NO_SNAPSHOT:
            training.ask(TrainRequest("load", int(chosen.value.removeprefix("step "))))

    desk.on(pause.on_click, toggle)
    desk.on(speed.on_update, set_speed)
    desk.on(rate.on_update, lambda: setattr(training, "lr_factor", 10.0 ** float(rate.value)))
    desk.on(save.on_click, lambda: training.ask(TrainRequest("save")))
    desk.on(load.on_click, load_chosen)
    desk.on(reset.on_click, lambda: _confirm_reset(desk))

    def refresh(state: RoomState) -> None:
        is_done = state.status is None or state.status.state == "done"
        refresh_pause()
        for handle in (pause, speed, rate, save, load, reset):
            assign(handle, "disabled", is_done)
        options = tuple(f"step {step}" for step in training.snapshots) or (NO_SNAPSHOT,)
        assign(chosen, "options", options)
        assign(text, "content", training.last_answer)

    return refresh


def _confirm_reset(desk: Desk) -> None:
    modal = desk.gui.add_modal("Begin training anew?")
    with modal:
        desk.gui.add_markdown("What was learned is lost, except in snapshots.")
        yes = desk.gui.add_button("Reset training", color=WARM)
        no = desk.gui.add_button("Keep training", color=CALM)

    def reset() -> None:
        modal.close()
        desk.room.training.ask(TrainRequest("reset"))

    desk.on(yes.on_click, reset)
    desk.on(no.on_click, modal.close)
