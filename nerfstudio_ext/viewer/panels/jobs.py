"""The queue of renders and exports: progress, the last frame, cancel, download."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import viser

from ...errors import UserError
from ..desk import Desk, Refresh, assign
from ..render_queue import QueueJob
from ..room import RoomState
from .style import CALM, clock_text

MAX_DOWNLOAD_BYTES = 1 << 30
MAX_LISTED = 8
NOTHING = "none yet"


def jobs_panel(desk: Desk) -> Refresh:
    """One list for everybody; the chosen job in detail."""
    gui, queue = desk.gui, desk.room.queue
    with gui.add_folder("Queue"):
        text = gui.add_markdown("Nothing was rendered yet.")
        bar = gui.add_progress_bar(0.0, color=(255, 138, 76), visible=False)
        picture = gui.add_image(np.zeros((9, 16, 3), np.uint8), label="Last frame", format="jpeg", visible=False)
        chosen = gui.add_dropdown("Job", (NOTHING,), initial_value=NOTHING)
        download = gui.add_button("Download", icon=viser.Icon.DOWNLOAD)
        cancel = gui.add_button("Cancel job", icon=viser.Icon.X, color=CALM)
    shown: list[object] = [None]

    def job() -> QueueJob:
        number = chosen.value.partition(" ")[0].strip("#")
        found = next((job for job in queue.jobs() if str(job.number) == number), None)
        if found is None:
            raise UserError("that job is gone", fix="Choose another one")
        return found

    desk.on(download.on_click, lambda: send(desk, job(), at_once=True))
    desk.on(cancel.on_click, lambda: queue.cancel(job().number))

    def refresh(state: RoomState) -> None:
        jobs = queue.jobs()[-MAX_LISTED:]
        assign(text, "content", "  \n".join(map(job_line, reversed(jobs))) or "Nothing was rendered yet.")
        options = tuple(f"#{job.number} {job.title}" for job in reversed(jobs)) or (NOTHING,)
        if options != tuple(chosen.options):
            chosen.options = options
            assign(chosen, "value", options[0])
        running = next((job for job in jobs if job.state == "running"), None)
        assign(bar, "visible", running is not None)
        if running is not None:
            assign(bar, "value", 100 * running.share)
        last = running or (jobs[-1] if jobs else None)
        preview = None if last is None else last.preview
        assign(picture, "visible", preview is not None)
        if preview is not None and preview is not shown[0]:
            shown[0] = preview
            picture.image = preview
        selected = next((job for job in jobs if chosen.value.startswith(f"#{job.number} ")), None)
        assign(download, "disabled", selected is None or selected.state != "done")
        assign(cancel, "disabled", selected is None or selected.state not in ("running", "waiting"))

    return refresh


def job_line(job: QueueJob) -> str:
    """One job as markdown."""
    title = job.title.replace("`", "'")
    if job.state == "running":
        left = "" if job.seconds_left is None else f" · {clock_text(job.seconds_left)} left"
        share = f" · {100 * job.share:.0f} %" if job.total else ""
        return f"**#{job.number}** `{title}` {job.stage}{share}{left}"
    words = {"waiting": "waits", "done": f"done in {clock_text(job.seconds)}"}.get(job.state, job.state)
    return f"**#{job.number}** `{title}` {words}" + (f" · {job.text}" if job.text else "")


def offer_to(desk: Desk) -> Callable[[QueueJob], None]:
    """Offers a finished job's files to the browser that asked for it."""
    return lambda job: desk.attempt(lambda: send(desk, job))


def send(desk: Desk, job: QueueJob, *, at_once: bool = False) -> None:
    """Send the result of a job to a browser: one file as it is, several as a ZIP archive.

    Args:
        desk: The browser.
        job: A finished job.
        at_once: Let the browser save it now; else it shows a link.
    Raises:
        UserError: if there is none, or it is too large for this way.
    """
    files = [file for file in job.files if file.is_file()]
    if job.state != "done" or not files:
        raise UserError("this job has no result", fix="Wait until it is done, or start it again")
    if sum(file.stat().st_size for file in files) > MAX_DOWNLOAD_BYTES:
        raise UserError("the result is larger than a gigabyte", where=files[0].parent, fix="Copy it from that folder")
    main = [file for file in files if file.suffix != ".json"] or files
    if len(main) == 1:
        desk.client.send_file_download(main[0].name, main[0].read_bytes(), save_immediately=at_once)
    else:
        desk.client.send_file_download(f"{Path(job.title).stem}.zip", archive(files), save_immediately=at_once)


def archive(files: list[Path]) -> bytes:
    """A ZIP archive of files, stored (pictures do not shrink), with the folders below their common one."""
    root = Path(*_common_parts([file.parent for file in files]))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as target:
        for file in files:
            target.write(file, file.relative_to(root).as_posix())
    return buffer.getvalue()


def _common_parts(folders: list[Path]) -> list[str]:
    parts = []
    for level in zip(*(folder.parts for folder in folders), strict=False):
        if len(set(level)) > 1:
            break
        parts.append(level[0])
    return parts
