"""Two pictures with one camera: two outputs, or two runs, side by side or as a difference."""

from __future__ import annotations

from ..desk import Desk, Refresh, assign
from ..looks import COMPARE_MODES, Compare, Side
from ..room import RoomState
from .output import outputs_of


def compare_panel(desk: Desk) -> Refresh:
    """Mode, the second picture, where they meet."""
    gui, look = desk.gui, desk.look.compare
    with gui.add_folder("Compare", expand_by_default=look.mode != "off"):
        mode = gui.add_dropdown(
            "Mode", COMPARE_MODES, initial_value=look.mode,
            hint="Wipe: the picture left, the other one right. Difference: grey where both agree",
        )  # fmt: skip
        sources = tuple(desk.room.sources()) or (look.other.source,)
        source = gui.add_dropdown(
            "Other run", sources, initial_value=look.other.source if look.other.source in sources else sources[0]
        )
        names = outputs_of(desk, source.value)
        output = gui.add_dropdown(
            "Other output", names, initial_value=look.other.output if look.other.output in names else "rgb"
        )
        wipe = gui.add_slider("Wipe", 0.0, 1.0, 0.01, look.wipe, hint="Where the two meet")
        gain = gui.add_slider("Gain", 1.0, 40.0, 1.0, look.gain, hint="How much the difference is amplified")

    def apply() -> None:
        other = Side(source.value, output.value)
        desk.change(compare=Compare(mode.value, other, float(wipe.value), float(gain.value)))

    def wiped() -> None:
        if mode.value == "off":
            assign(mode, "value", "wipe")
        apply()

    for handle in (mode, source, output, gain):
        desk.on(handle.on_update, apply)
    desk.on(wipe.on_update, wiped)

    def refresh(state: RoomState) -> None:
        sources = tuple(desk.room.sources())
        if sources:
            assign(source, "options", sources)
            assign(source, "visible", len(sources) > 1)
        assign(output, "options", outputs_of(desk, source.value))
        assign(wipe, "visible", mode.value != "difference")
        assign(gain, "visible", mode.value == "difference")

    return refresh
