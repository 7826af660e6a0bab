"""The live viewer: a web page that follows training or shows a finished run."""

from __future__ import annotations

import logging
import math
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import viser
from jaxtyping import UInt8

from ..camera_paths import Similarity, WorldFrame
from ..cameras import Cameras
from ..progress import TrainRequest, TrainStatus
from ..renderer import Renderer
from .address import DEFAULT_HOST, DEFAULT_PORT, free_port, url_of
from .desk import Panel
from .gate import ANY_ADDRESS, Gate, Role, fresh_secret
from .looks import MAIN
from .panels import default_panels
from .pictures import waiting_picture
from .planner import Planner
from .render_queue import ExportKind, RenderQueue
from .room import Room, RoomState
from .scheduler import Scheduler
from .training_views import MAX_START_FOV_DEG, Stand, TrainingViews, first_camera, stand_of, thumbnail
from .transport import Transport
from .viser_private import gated_server, hush_handshakes, notify_all, quick_icons, quiet_viser, safe_outboxes
from .visitors import PanelPlace, Visitors
from .world_frame import WorldFrames

logger = logging.getLogger(__name__)

BRAND = (255, 138, 76)
PANEL_PERIOD_S = 1.0
SO_FAR = "trained so far"
"""Name of the newest weights while a preview is still shown in their place."""
STALLED_S = 10.0
"""Training that took no step for so long is treated as not running: still views may use all cores."""
MakeServer = Callable[[Gate, str, int, str], viser.ViserServer]


def make_viser(gate: Gate, host: str, port: int, label: str) -> viser.ViserServer:
    """A viser server behind the gate, without banners and without its share service."""
    hush_handshakes()
    quick_icons()
    safe_outboxes()
    return gated_server(gate, host, port, label)


@dataclass(frozen=True)
class Site:
    """What a viewer knows about the run it shows, beside what it renders.

    Attributes:
        folder: Run folder: films, paths and the world frame go there. None keeps them in a temporary folder.
        frame: From the source frame to the training frame.
        world: The world frame that came with the run, where its folder has none.
        photo_names: Names of the training photos.
        has_trainer: Whether a training runs behind the viewer and serves requests.
        exports: What can be exported besides pictures, by name.
        content_id: Names the weights that are shown.
    """

    folder: Path | None = None
    frame: Similarity | None = None
    world: WorldFrame | None = None
    photo_names: Sequence[str] = ()
    has_trainer: bool = False
    exports: Mapping[str, ExportKind] = field(default_factory=dict)
    content_id: Callable[[], str] = lambda: ""


class ViewerServer:
    """Serves the page, renders for it, and watches a training run (`training.TrainingWatcher`, structurally).

    The address is 127.0.0.1 unless asked otherwise, and the page opens for those who have a link.

    Args:
        cameras: Training cameras, in the frame of the renderer.
        photos: Their photos, 8 bit, any size, same order; may be empty.
        site: What else is known about the run.
        up: World up direction in the renderer's frame.
        host: Address to listen on.
        port: Port to listen on; the next free one is taken and told through `notice`.
        names: Further names under which the page may be opened.
        secret: Makes the links; with the same one they stay valid over a restart. None makes fresh links.
        label: Title over the panel.
        set_threads: Sets the kernel threads of the calling thread; the render worker uses one core while training runs.
        notice: Receives one-line messages for the user.
        make_server: Makes the viser server.
        panels: The folders of the control panel.
    Raises:
        UserError: if the host cannot be bound or no port is free.
    """

    def __init__(
        self,
        cameras: Cameras,
        photos: Sequence[UInt8[np.ndarray, "H W C"]] = (),
        *,
        site: Site | None = None,
        up: tuple[float, float, float] = (0.0, 0.0, 1.0),
        host: str = DEFAULT_HOST,
        port: int = DEFAULT_PORT,
        names: Sequence[str] = (),
        secret: bytes | None = None,
        label: str = "nerfstudio-ext",
        set_threads: Callable[[int], None] | None = None,
        notice: Callable[[str], None] = lambda text: None,
        make_server: MakeServer = make_viser,
        panels: Sequence[PanelPlace] | None = None,
    ) -> None:
        site = site or Site()
        self.host, self.is_open = host, host in ANY_ADDRESS
        bound = free_port(host, port)
        self._gate = Gate(secret or fresh_secret(), bound, host, names)
        self._server = make_server(self._gate, host, bound, label)
        self.port: int = self._server.get_port()
        self.url = url_of(host, self.port)
        self._notice = notice
        if port not in (0, self.port):
            notice(f"Port {port} is taken; the viewer is at {self.url}")
        self._status: TrainStatus | None = None
        self._stepped_at = float("-inf")
        self._stop, self._panel_lock = threading.Event(), threading.Lock()
        self._has_renderer, self._to_beat = False, -math.inf
        self._temporary = None if site.folder else tempfile.TemporaryDirectory(prefix="nsx-viewer-")
        folder = site.folder or Path(self._temporary.name if self._temporary else "")
        transport = Transport(photos)
        scheduler = Scheduler(transport.offer, Planner(), self._render_failed, set_threads)
        transport.on_ready = scheduler.wake
        self.room = _make_room(self._server, scheduler, transport, cameras, site, folder, up)
        self.room.notice = notice
        self._scheduler, self._transport = self.room.scheduler, self.room.transport
        self.room.world.on_change.append(lambda: self._server.scene.set_up_direction(self.room.world.up))
        _dress(self._server, self.room.world.up)
        first = first_camera(cameras, self.room.training_views.focus) if len(cameras) else None
        self._first_photo = thumbnail(photos[first]) if first is not None and first < len(photos) else None
        self._first_stand = None if first is None else stand_of(cameras[first], self.room.training_views.focus)
        _place_first(self._server, self._first_stand)
        self._visitors = Visitors(self.room, self._gate, self._waiting_picture)
        for place in default_panels(self._first_stand) if panels is None else panels:
            self._visitors.add_panel(place)
        self._visitors.open()
        self._ticker = threading.Thread(target=self._tick, name="nsx-panel", daemon=True)
        self._scheduler.start()
        self._transport.start()
        self.room.queue.start()
        self._ticker.start()

    # -- for the program that owns the viewer ---------------------------------------------------------------------

    @property
    def n_clients(self) -> int:
        """Number of browsers that answer."""
        return self._transport.n_awake()

    def link(self, role: Role = "owner") -> str:
        """The address with the key of a role."""
        return f"{self.url}/?token={self._gate.token(role)}"

    def add_panel(self, panel: Panel, tab: str = "View", *, is_for_owner: bool = False) -> None:
        """Add a folder of controls: `panel(desk)` builds it in each browser and may return what refreshes it."""
        self._visitors.add_panel(PanelPlace(panel, tab, is_for_owner))

    def set_renderer(self, renderer: Renderer, name: str = MAIN) -> None:
        """Show a renderer from the next frame on; further ones by other names, to compare with."""
        self._has_renderer = self._has_renderer or name == MAIN
        self._scheduler.set_renderer(renderer, name)

    def change_looks(self, **changes: Any) -> None:
        """Change how the scene is shown in every browser; see `Look`."""
        for desk in list(self._visitors.desks.values()):
            desk.change(**changes)

    def close(self) -> None:
        """Stop serving and wait for all threads."""
        with self._panel_lock:
            if self._stop.is_set():
                return
            self._stop.set()
        self._ticker.join(timeout=5.0)
        self.room.queue.close()
        self._scheduler.close()
        self._transport.close()
        self._visitors.close()
        with quiet_viser():
            self._server.stop()
        if self._temporary is not None:
            self._temporary.cleanup()

    # -- TrainingWatcher ------------------------------------------------------------------------------------------

    def is_paused(self) -> bool:
        """True while the pause button is pressed."""
        return self.room.training.is_paused

    def has_request(self) -> bool:
        """Whether somebody asked something of the trainer."""
        return self.room.training.has_request()

    def next_request(self) -> TrainRequest | None:
        """Take the oldest request."""
        return self.room.training.next_request()

    def answered(self, text: str, snapshots: tuple[int, ...]) -> None:
        """Note what became of a request, and which snapshots there are."""
        self.room.training.last_answer, self.room.training.snapshots = text, snapshots

    def lr_factor(self) -> float:
        """Factor that people chose for the learning rate."""
        return self.room.training.lr_factor

    def reserved_threads(self) -> int:
        """Cores to leave to the view right now: 1 while somebody moves, else 0."""
        return int(self._scheduler.is_interactive())

    def set_preview(self, renderer: Renderer, name: str, psnr: float) -> None:
        """Show a renderer until published ones reach its PSNR, dB, and keep it under a name to compare with."""
        self._to_beat = psnr
        for place in (MAIN, name):
            self.set_renderer(renderer, place)

    def publish(self, renderer: Renderer, status: TrainStatus) -> None:
        """Take the newest weights; behind a preview they wait until they are better, or training ends."""
        self.stepped(status)
        waits = status.state != "done" and status.psnr < self._to_beat
        self._to_beat = self._to_beat if waits else -math.inf
        self.set_renderer(renderer, SO_FAR if waits else MAIN)

    def wants_snapshot(self) -> bool:
        """True if newer weights would be shown at once (or nothing is shown yet)."""
        return self._scheduler.wants_publication()

    def stepped(self, status: TrainStatus) -> None:
        """Note how training goes; cheap enough for every step."""
        self._status = status
        self._stepped_at = time.perf_counter()
        self._scheduler.set_training(self._training_age())

    def refresh_panels(self) -> None:
        """Write the newest numbers into the panels."""
        self.room.history.add(self._status)
        state = RoomState(self._status, self._has_renderer, self.n_clients)
        with self._panel_lock:
            if not self._stop.is_set():
                self._visitors.refresh(state)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _waiting_picture(self, aspect: float, is_late: bool) -> UInt8[np.ndarray, "H W 3"] | None:
        is_near = self._has_renderer if not is_late else self._scheduler.last is not None
        return None if is_near else waiting_picture(self._first_photo, aspect)

    def _render_failed(self, text: str) -> None:
        self._notice(text)
        notify_all(self._server, "The picture could not be rendered", text)

    def _training_age(self) -> float | None:
        """Seconds of training while it runs, else None."""
        status = self._status
        if status is None or status.state != "training" or self.is_paused():
            return None
        return None if time.perf_counter() - self._stepped_at > STALLED_S else status.train_seconds

    def _tick(self) -> None:
        while not self._stop.wait(PANEL_PERIOD_S):
            self._scheduler.set_training(self._training_age())
            try:
                self.refresh_panels()
            except Exception:  # noqa: BLE001 - supervising loop: a panel's mistake must not stop the others for good
                logger.exception("the panel could not be refreshed")


def _make_room(
    server: viser.ViserServer,
    scheduler: Scheduler,
    transport: Transport,
    cameras: Cameras,
    site: Site,
    folder: Path,
    up: tuple[float, float, float],
) -> Room:
    return Room(
        server=server,
        scheduler=scheduler,
        transport=transport,
        training_views=TrainingViews(server, cameras, transport.photos),
        world=WorldFrames(folder, site.frame, up, site.world),
        queue=RenderQueue(folder / "renders", scheduler.is_interactive),
        folder=folder,
        photos=transport.photos,
        photo_names=site.photo_names,
        has_trainer=site.has_trainer,
        frame=site.frame,
        up=up,
        exports=site.exports,
        content_id=site.content_id,
    )


def _dress(server: viser.ViserServer, up: tuple[float, float, float]) -> None:
    server.gui.configure_theme(
        dark_mode=True, show_logo=False, show_share_button=False, brand_color=BRAND, control_width="large"
    )
    server.scene.set_up_direction(up)
    server.scene.configure_default_lights(enabled=True, cast_shadow=False)


def _place_first(server: viser.ViserServer, stand: Stand | None) -> None:
    """Where new browsers begin."""
    if stand is None:
        return
    camera = server.initial_camera
    camera.position = stand.position.numpy()
    camera.look_at = stand.look_at.numpy()
    camera.fov = min(stand.fov_y, math.radians(MAX_START_FOV_DEG))
