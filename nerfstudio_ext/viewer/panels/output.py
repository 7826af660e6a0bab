"""What is shown, in which colours, how large."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from ...renderer import HasLayers, Renderer
from ..desk import Desk, Refresh, assign
from ..looks import BACKDROPS, COLORMAPS, OUTPUTS, Scale
from ..room import RoomState
from ..scheduler import RenderNote

SIZES_PX = (256, 4096, 128)
"""Range and step of the size slider."""
SCALAR_FREE = ("rgb", "normals")
"""Outputs whose colours are no scale of numbers."""


def output_panel(desk: Desk) -> Refresh:
    """Output, light, background, size."""
    gui, look = desk.gui, desk.look
    with gui.add_folder("Picture"):
        names = outputs_of(desk, look.side.source)
        output = gui.add_dropdown(
            "Output", names, initial_value=look.side.output if look.side.output in names else "rgb",
            hint="Colour, distance, surface direction, opacity, and what the method can show besides",
        )  # fmt: skip
        exposure = gui.add_slider("Exposure", -5.0, 5.0, 0.1, look.exposure, hint="Stops: +1 doubles the light")
        backdrop = gui.add_dropdown("Background", BACKDROPS, initial_value=look.backdrop)
        colour = gui.add_rgb("Colour", to_bytes(look.backdrop_colour), visible=look.backdrop == "colour")
        size = gui.add_slider("Max size", *SIZES_PX, look.max_side, hint="Longer side of a still picture, pixels")
        dynamic = gui.add_checkbox(
            "Adapt size", look.is_dynamic, hint="Shrink pictures of a moving camera until they are fast"
        )
        fps = gui.add_slider("Target rate", 2.0, 60.0, 1.0, look.target_fps, hint="Frames per second while moving")
        text = gui.add_markdown("_No picture yet_")
    scale_refresh = _scale_folder(desk)

    def show_output() -> None:
        desk.change(side=dataclasses.replace(desk.look.side, output=output.value))
        scale_refresh()

    def show_backdrop() -> None:
        colour.visible = backdrop.value == "colour"
        desk.change(backdrop=backdrop.value, backdrop_colour=to_shares(colour.value))

    desk.on(output.on_update, show_output)
    desk.on(exposure.on_update, lambda: desk.change(exposure=round(float(exposure.value), 2)))
    desk.on(backdrop.on_update, show_backdrop)
    desk.on(colour.on_update, show_backdrop)
    desk.on(size.on_update, lambda: desk.change(max_side=int(size.value)))
    desk.on(dynamic.on_update, lambda: desk.change(is_dynamic=dynamic.value))
    desk.on(fps.on_update, lambda: desk.change(target_fps=float(fps.value)))

    def refresh(state: RoomState) -> None:
        assign(text, "content", frame_text(desk.room.scheduler.last))
        assign(output, "options", outputs_of(desk, desk.look.side.source))
        assign(fps, "disabled", not dynamic.value)

    return refresh


def outputs_of(desk: Desk, source: str) -> tuple[str, ...]:
    """Everything a renderer of the room can show."""
    sources = desk.room.sources()
    renderer: Renderer | None = sources.get(source) or next(iter(sources.values()), None)
    return (*OUTPUTS, *(renderer.layers() if isinstance(renderer, HasLayers) else ()))


def frame_text(note: RenderNote | None) -> str:
    """Resolution and time of the last frame as markdown."""
    if note is None:
        return "_No picture yet_"
    return f"{note.width} × {note.height} px · {1000 * note.seconds:.0f} ms per frame"


def to_bytes(colour: tuple[float, float, float]) -> tuple[int, int, int]:
    """A colour 0..1 as 0..255."""
    r, g, b = (round(255 * value) for value in colour)
    return r, g, b


def to_shares(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    """A colour 0..255 as 0..1, whatever a page sent."""
    r, g, b = (min(max(value / 255, 0.0), 1.0) for value in colour)
    return r, g, b


def _scale_folder(desk: Desk) -> Callable[[], None]:
    gui, scale = desk.gui, desk.look.scale
    with gui.add_folder("Colours of numbers", visible=desk.look.side.output not in SCALAR_FREE) as folder:
        colormap = gui.add_dropdown("Colormap", COLORMAPS, initial_value=scale.colormap)
        inverted = gui.add_checkbox("Invert", scale.is_inverted)
        is_auto = scale.low is None and scale.high is None
        auto = gui.add_checkbox("Fit to picture", is_auto, hint="Else the two numbers below are the ends of the scale")
        low = gui.add_number("Min", scale.low or 0.0, step=0.01, disabled=is_auto)
        high = gui.add_number("Max", 1.0 if scale.high is None else scale.high, step=0.01, disabled=is_auto)

    def change() -> None:
        low.disabled = high.disabled = auto.value
        ends = (None, None) if auto.value else (float(low.value), float(high.value))
        desk.change(scale=Scale(colormap.value, inverted.value, *ends))

    for handle in (colormap, inverted, auto, low, high):
        desk.on(handle.on_update, change)

    def refresh() -> None:
        shown = [desk.look.side]
        if desk.look.compare.mode != "off":
            shown.append(desk.look.compare.other)
        assign(folder, "visible", any(side.output not in SCALAR_FREE for side in shown))

    return refresh
