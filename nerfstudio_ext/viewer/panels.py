"""The control panel: one function per folder of controls. Other panels join through `ViewerServer.add_panel`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import viser
import viser.uplot

from ..progress import TrainStatus
from .curves import Curve
from .pictures import OUTPUTS, Output
from .scheduler import RenderNote

ACCENT = "#ff8a4c"
COOL = "#5cc8ff"
CALM = (74, 80, 92)
"""Colour of buttons that should not catch the eye."""
RESOLUTIONS_PX = (256, 2048, 128)
"""Range and step of the size slider."""


class PanelHost(Protocol):
    """What the controls may do to the viewer."""

    @property
    def gui(self) -> viser.GuiApi:
        """viser's panel."""

    def set_paused(self, is_paused: bool) -> None:
        """Pause or resume training."""

    def set_output(self, output: Output) -> None:
        """Show another part of the frames."""

    def set_max_side(self, max_side: int) -> None:
        """Limit the size of pictures."""

    def set_cameras_shown(self, is_shown: bool) -> None:
        """Show or hide the training cameras."""

    def set_depth_compositing(self, is_on: bool) -> None:
        """Let the scene hide what is drawn behind it."""

    def home(self) -> None:
        """Bring every browser back to its first view."""

    def redraw(self) -> None:
        """Render every view again: the renderer shows something else from now on."""

    def shown_jpeg(self, client_id: int) -> bytes | None:
        """The picture that a browser got last, as it was sent; None before the first."""


@dataclass
class PanelState:
    """Numbers of one look at the viewer, from which the panels are refreshed about once a second.

    Attributes:
        status: Training numbers, or None for a finished run.
        note: The last rendered frame.
        is_paused: Whether the pause button was pressed.
        has_scene: Whether there is something to render.
    """

    status: TrainStatus | None = None
    note: RenderNote | None = None
    is_paused: bool = False
    has_scene: bool = False


Refresh = Callable[[PanelState], None]


def training_panel(host: PanelHost) -> Refresh:
    """Step, quality and time left, with the pause button."""
    gui = host.gui
    with gui.add_folder("Training", order=0):
        text = gui.add_markdown("_Starting_")
        bar = gui.add_progress_bar(0.0, color=(255, 138, 76))
        button = gui.add_button("Pause training", icon=viser.Icon.PLAYER_PAUSE)

    @button.on_click
    def _(event: object) -> None:
        # The label is the state that all browsers see; `refresh` sets it again from the truth.
        host.set_paused(button.label == "Pause training")

    def refresh(state: PanelState) -> None:
        is_done = state.status is not None and state.status.state == "done"
        assign(text, "content", training_text(state))
        assign(bar, "value", 100.0 * share_done(state.status))
        assign(bar, "visible", state.status is not None and not is_done)
        assign(button, "visible", state.status is not None and not is_done)
        assign(button, "label", "Resume training" if state.is_paused else "Pause training")
        assign(button, "icon", viser.Icon.PLAYER_PLAY if state.is_paused else viser.Icon.PLAYER_PAUSE)

    return refresh


def view_panel(host: PanelHost) -> Refresh:
    """What is shown and how large."""
    gui = host.gui
    smallest, largest, step = RESOLUTIONS_PX
    with gui.add_folder("View", order=1):
        output = gui.add_dropdown("Output", OUTPUTS, initial_value="rgb")
        cameras = gui.add_checkbox("Show cameras", initial_value=True, hint="Click a camera to look through it")
        depth = gui.add_checkbox(
            "Occlusion", initial_value=False, hint="The scene hides cameras behind it; sends depth with every frame"
        )
        size = gui.add_slider("Max size", smallest, largest, step, 1024, hint="Longer side of a still picture, pixels")
        home = gui.add_button("First view", icon=viser.Icon.HOME, color=CALM)
        text = gui.add_markdown("")

    output.on_update(lambda event: host.set_output(output.value))
    cameras.on_update(lambda event: host.set_cameras_shown(cameras.value))
    depth.on_update(lambda event: host.set_depth_compositing(depth.value))
    size.on_update(lambda event: host.set_max_side(int(size.value)))
    home.on_click(lambda event: host.home())

    def refresh(state: PanelState) -> None:
        assign(text, "content", frame_text(state.note))

    return refresh


@dataclass
class _Curves:
    psnr: Curve = field(default_factory=Curve)
    loss: Curve = field(default_factory=Curve)
    last_step: int = -1


def curves_panel(host: PanelHost) -> Refresh:
    """PSNR and loss over the steps."""
    gui = host.gui
    curves = _Curves()
    with gui.add_folder("Curves", order=2, visible=False) as folder:
        psnr = _add_plot(gui, "PSNR of training rays (dB)", ACCENT)
        loss = _add_plot(gui, "Loss (log scale)", COOL, is_log=True)

    def refresh(state: PanelState) -> None:
        status = state.status
        if status is None or status.step == curves.last_step:
            return
        curves.last_step = status.step
        curves.psnr.add(status.step, status.psnr)
        curves.loss.add(status.step, max(sum(status.losses.values()), 1e-9) if status.losses else math.nan)
        for plot, curve in ((psnr, curves.psnr), (loss, curves.loss)):
            steps, values = curve.arrays()
            if len(steps) > 1:
                plot.data = (steps, values)
                assign(folder, "visible", True)

    return refresh


def training_text(state: PanelState) -> str:
    """The training folder's numbers as markdown."""
    status = state.status
    if status is None:
        return "Finished run" if state.has_scene else "_Waiting for the scene_"
    total = f" of {status.max_steps:,}" if status.max_steps else ""
    word = "Paused" if state.is_paused and status.state != "done" else status.state.capitalize()
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


def frame_text(note: RenderNote | None) -> str:
    """Resolution and time of the last frame as markdown."""
    if note is None:
        return "_No picture yet_"
    return f"{note.width} × {note.height} px · {1000 * note.seconds:.0f} ms per frame"


def share_done(status: TrainStatus | None) -> float:
    """How much of the training is done, 0..1, by steps or by time, whichever is further."""
    if status is None:
        return 0.0
    by_steps = status.step / status.max_steps if status.max_steps else 0.0
    total = status.train_seconds + status.seconds_left
    by_time = status.train_seconds / total if math.isfinite(total) and total > 0 else 0.0
    return min(1.0, max(by_steps, by_time))


def clock_text(seconds: float) -> str:
    """Seconds as `4:07` or `1:02:09`; a question mark when unknown."""
    if not math.isfinite(seconds):
        return "?"
    total = max(0, round(seconds))
    hours, minutes = divmod(total // 60, 60)
    return f"{hours}:{minutes:02d}:{total % 60:02d}" if hours else f"{minutes}:{total % 60:02d}"


def short_number(value: float) -> str:
    """A count with three digits and k or M."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.3g}"


def assign(handle: object, name: str, value: object) -> None:
    """Set a property only when it differs: every assignment is a message to every browser."""
    if getattr(handle, name) != value:
        setattr(handle, name, value)


def _add_plot(gui: viser.GuiApi, title: str, colour: str, is_log: bool = False) -> viser.GuiUplotHandle:
    axis: viser.uplot.Axis = {"stroke": "#9aa0aa", "grid": {"stroke": "#33363d", "width": 1}, "size": 42}
    bottom: viser.uplot.Axis = {"stroke": "#9aa0aa", "grid": {"stroke": "#33363d", "width": 1}, "size": 28}
    scale: viser.uplot.Scale = {"distr": 3} if is_log else {}
    return gui.add_uplot(
        data=(np.array([0.0, 1.0]), np.array([1.0, 1.0])),
        series=({"label": "step"}, {"stroke": colour, "width": 2, "points": {"show": False}}),
        title=title,
        scales={"x": {"time": False}, "y": scale},
        axes=(bottom, axis),
        legend={"show": False},
        height=130,
        padding=(10, 8, 0, 0),
    )
