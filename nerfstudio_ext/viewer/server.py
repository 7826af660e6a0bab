"""The live viewer: a web page that follows training or shows a finished run."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import viser
from jaxtyping import UInt8

from ..cameras import Cameras
from ..progress import TrainStatus
from ..renderer import Renderer
from .address import DEFAULT_HOST, DEFAULT_PORT, free_port, url_of
from .panels import PanelHost, PanelState, Refresh, curves_panel, training_panel, view_panel
from .pictures import Output, waiting_picture
from .planner import Planner
from .scheduler import Scheduler
from .training_views import MAX_START_FOV_DEG, Stand, TrainingViews, first_camera, go_to, stand_of, thumbnail
from .transport import OutputSettings, Transport
from .viser_private import hush_handshakes, notify_all, quiet_viser, refuse_sharing
from .visitors import Visitors

logger = logging.getLogger(__name__)

BRAND = (255, 138, 76)
PANEL_PERIOD_S = 1.0
STALLED_S = 10.0
"""Training that took no step for so long is treated as not running: still views may use all cores."""

Panel = Callable[[PanelHost], Refresh]
MakeServer = Callable[[str, int, str], viser.ViserServer]


def make_viser(host: str, port: int, label: str) -> viser.ViserServer:
    """A viser server without banners and without its share service; the place where an access gate goes around it."""
    hush_handshakes()
    with quiet_viser():
        server = viser.ViserServer(host=host, port=port, label=label, verbose=False)
    refuse_sharing(server)
    return server


class ViewerServer:
    """Serves the page, renders for it, and watches a training run (`training.TrainingWatcher`, structurally).

    The address is 127.0.0.1 unless asked otherwise: whoever reaches the page can steer training.

    Args:
        cameras: Training cameras, in the frame of the renderer.
        photos: Their photos, 8 bit, any size (thumbnails are made here), same order; may be empty.
        up: World up direction in the renderer's frame.
        host: Address to listen on.
        port: Port to listen on; the next free one is taken and told through `notice`.
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
        up: tuple[float, float, float] = (0.0, 0.0, 1.0),
        host: str = DEFAULT_HOST,
        port: int = DEFAULT_PORT,
        label: str = "nerfstudio-ext",
        set_threads: Callable[[int], None] | None = None,
        notice: Callable[[str], None] = lambda text: None,
        make_server: MakeServer = make_viser,
        panels: Sequence[Panel] = (training_panel, view_panel, curves_panel),
    ) -> None:
        bound = free_port(host, port)
        self._server = make_server(host, bound, label)
        self.port: int = self._server.get_port()
        self.url = url_of(host, self.port)
        self._notice = notice
        if port not in (0, self.port):
            notice(f"Port {port} is taken; the viewer is at {self.url}")
        self._settings = OutputSettings()
        self._transport = Transport(self._settings)
        self._scheduler = Scheduler(self._transport.offer, Planner(), self._render_failed, set_threads)
        self._transport.on_ready = self._scheduler.wake
        self._status: TrainStatus | None = None
        self._stepped_at = float("-inf")
        self._is_paused = threading.Event()
        self._stop, self._panel_lock = threading.Event(), threading.Lock()
        self._has_renderer = False
        self._refreshes: list[Refresh] = []
        _dress(self._server, up)
        self.training_views = TrainingViews(self._server, cameras, photos)
        first = first_camera(cameras, self.training_views.focus) if len(cameras) else None
        self._first_photo = thumbnail(photos[first]) if first is not None and first < len(photos) else None
        self._first_stand = None if first is None else stand_of(cameras[first], self.training_views.focus)
        _place_first(self._server, self._first_stand)
        for panel in panels:
            self.add_panel(panel)
        self._visitors = Visitors(
            self._server, self._scheduler, self._transport, self.training_views, self._waiting_picture
        )
        self._ticker = threading.Thread(target=self._tick, name="nsx-panel", daemon=True)
        self._scheduler.start()
        self._transport.start()
        self._ticker.start()

    # -- for the program that owns the viewer ---------------------------------------------------------------------

    @property
    def gui(self) -> viser.GuiApi:
        """viser's panel, for more controls."""
        return self._server.gui

    @property
    def n_clients(self) -> int:
        """Number of browsers that answer."""
        return self._transport.n_awake()

    def add_panel(self, panel: Panel) -> None:
        """Add a folder of controls: `panel(viewer)` builds it and returns what refreshes it once a second."""
        self._refreshes.append(panel(self))

    def set_renderer(self, renderer: Renderer) -> None:
        """Show a renderer from the next frame on."""
        self._has_renderer = True
        self._scheduler.set_renderer(renderer)

    def close(self) -> None:
        """Stop serving and wait for all threads."""
        with self._panel_lock:
            if self._stop.is_set():
                return
            self._stop.set()
        self._ticker.join(timeout=5.0)
        self._scheduler.close()
        self._transport.close()
        with quiet_viser():
            self._server.stop()

    # -- TrainingWatcher ------------------------------------------------------------------------------------------

    def is_paused(self) -> bool:
        """True while the pause button is pressed."""
        return self._is_paused.is_set()

    def reserved_threads(self) -> int:
        """Cores to leave to the view right now: 1 while somebody moves, else 0."""
        return int(self._scheduler.is_interactive())

    def publish(self, renderer: Renderer, status: TrainStatus) -> None:
        """Take the newest weights."""
        self.stepped(status)
        self.set_renderer(renderer)

    def wants_snapshot(self) -> bool:
        """True if newer weights would be shown at once (or nothing is shown yet)."""
        return self._scheduler.wants_publication()

    def stepped(self, status: TrainStatus) -> None:
        """Note how training goes; cheap enough for every step."""
        self._status = status
        self._stepped_at = time.perf_counter()
        self._scheduler.set_training(self._training_age())

    # -- PanelHost ------------------------------------------------------------------------------------------------

    def set_paused(self, is_paused: bool) -> None:
        """Pause or resume training."""
        if is_paused:
            self._is_paused.set()
        else:
            self._is_paused.clear()
        self._scheduler.set_training(self._training_age())
        self.refresh_panels()

    def set_output(self, output: Output) -> None:
        """Show colour, depth or opacity."""
        self._settings.output = output
        self._scheduler.redraw()

    def set_max_side(self, max_side: int) -> None:
        """Limit the longer side of pictures."""
        self._scheduler.redraw(max_side=max_side)

    def set_cameras_shown(self, is_shown: bool) -> None:
        """Show or hide the training cameras."""
        self.training_views.show(is_shown)

    def set_depth_compositing(self, is_on: bool) -> None:
        """Let the scene hide what is drawn behind it."""
        self._settings.composites_depth = is_on
        self._scheduler.redraw()

    def home(self) -> None:
        """Bring every browser back to its first view."""
        if self._first_stand is not None:
            for client in self._server.get_clients().values():
                go_to(client, self._first_stand)

    def redraw(self) -> None:
        """Render every view again."""
        self._scheduler.redraw()

    def shown_jpeg(self, client_id: int) -> bytes | None:
        """The picture that a browser got last, as it was sent."""
        return self._transport.last_jpeg(client_id)

    def refresh_panels(self) -> None:
        """Write the newest numbers into the panel."""
        state = PanelState(self._status, self._scheduler.last, self.is_paused(), self._has_renderer)
        with self._panel_lock:
            if not self._stop.is_set():
                with self._server.atomic():
                    for refresh in self._refreshes:
                        refresh(state)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _waiting_picture(self, aspect: float) -> UInt8[np.ndarray, "H W 3"] | None:
        return None if self._has_renderer else waiting_picture(self._first_photo, aspect)

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


def _dress(server: viser.ViserServer, up: tuple[float, float, float]) -> None:
    server.gui.configure_theme(
        dark_mode=True, show_logo=False, show_share_button=False, brand_color=BRAND, control_width="medium"
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
