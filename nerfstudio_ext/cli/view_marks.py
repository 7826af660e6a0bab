"""What `nsx view` adds for provenance: reading the mark in what a browser shows, and a run with and without it."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

from ..errors import UserError
from .stega_extract import KEY_VARIABLE, odds

if TYPE_CHECKING:
    from ..renderer import Renderer
    from ..stages.stega.findings import Extraction
    from ..training.runs import OpenedRun
    from ..viewer.provenance import Verify


def unmarked_of(opened: OpenedRun) -> Renderer | None:
    """A marked run without its mark, to compare with; None for other runs."""
    from ..methods.marked import Marked
    from ..renderer import RayRenderer

    if not isinstance(opened.method, Marked):
        return None
    marked = opened.renderer()
    return RayRenderer(opened.method.base.render_rays, opened.meta.background, marked.chunk, opened.step, marked.device)


def verifier_of(opened: OpenedRun) -> Verify:
    """Reads pictures with the extractor the run was marked for (the public one, or a private one it carries)."""
    from ..stages.stega.marked_run import DECODER_FILE

    decoder = opened.path / DECODER_FILE

    def verify(jpeg: bytes, typed: str) -> str:
        import numpy as np
        from PIL import Image

        from ..stages.stega.extraction import extract
        from ..stages.stega.extractor import load_extractor
        from ..stages.stega.keys import Key
        from ..stages.stega.scale_search import View

        secret = typed or os.environ.get(KEY_VARIABLE, "")
        if not secret:
            raise UserError("no key", fix=f"Type it above, or start with the variable {KEY_VARIABLE}")
        extractor = load_extractor(decoder if decoder.is_file() else None)
        pixels = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))
        found = extract([View("this frame", pixels)], Key(secret), extractor=extractor)
        return answer_text(found, pixels.shape[1], pixels.shape[0])

    return verify


def answer_text(found: Extraction, width: int, height: int) -> str:
    """The answer as markdown.

    Args:
        found: What the picture says.
        width: Of the picture, pixels.
        height: Likewise.
    """
    size = f"{width} × {height} px, JPEG as shown"
    by_keys = f"random keys do as well in {found.p_value_random_keys:.2g} of cases"
    if not found.present or found.message is None:
        return f"**No mark found** under this key  \n{size}  \np = {found.p_value:.2g} · {by_keys}"
    view = found.views[0]
    # What stands in the mark is data of strangers: shown as code, it cannot become markup.
    shown = found.message.text.replace("`", "'")
    lines = [
        f"**Mark found:** `{shown}`",
        f"confidence **{view.confidence or 0:.2f}** · {100 * (view.bit_accuracy or 0):.0f} % of the bits · "
        f"scale {view.scale or 1:.2f}",
        f"false alarm {odds(found.p_value)} · {by_keys}",
        size,
    ]
    return "  \n".join(lines)
