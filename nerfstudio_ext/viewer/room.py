"""What all browsers of a viewer share: the scene, its training, its files, the queue of exports."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import viser
from jaxtyping import UInt8

from ..camera_paths import Similarity
from ..progress import TrainRequest, TrainStatus
from .curves import TrainHistory
from .memory import Memory

if TYPE_CHECKING:
    from ..renderer import Renderer
    from .render_queue import ExportKind, RenderQueue
    from .scheduler import Scheduler
    from .training_views import TrainingViews
    from .transport import Transport
    from .world_frame import WorldFrames


class TrainingDesk:
    """What people ask of a running training; the trainer looks here after every step. Safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_paused = threading.Event()
        self._requests: list[TrainRequest] = []
        self.lr_factor = 1.0
        self.last_answer = ""
        self.snapshots: tuple[int, ...] = ()

    @property
    def is_paused(self) -> bool:
        """Whether training should wait."""
        return self._is_paused.is_set()

    def set_paused(self, is_paused: bool) -> None:
        """Pause or resume training."""
        if is_paused:
            self._is_paused.set()
        else:
            self._is_paused.clear()

    def ask(self, request: TrainRequest) -> None:
        """Leave a request; it is served after the present step."""
        with self._lock:
            if request not in self._requests:
                self._requests.append(request)

    def has_request(self) -> bool:
        """Whether a request waits."""
        with self._lock:
            return bool(self._requests)

    def next_request(self) -> TrainRequest | None:
        """Take the oldest request."""
        with self._lock:
            return self._requests.pop(0) if self._requests else None


@dataclass
class RoomState:
    """Numbers of one look at the viewer, from which the panels are refreshed about once a second.

    Attributes:
        status: Training numbers, or None for a finished run.
        has_scene: Whether there is something to render.
        n_clients: Browsers that answer.
    """

    status: TrainStatus | None = None
    has_scene: bool = False
    n_clients: int = 0


@dataclass
class Room:
    """See the module.

    Attributes:
        server: The viser server.
        scheduler: Renders.
        transport: Sends pictures.
        training_views: The cameras drawn in the scene.
        photos: Training photos or their thumbnails, 8 bit, in the order of the cameras; may be empty.
        photo_names: Their names.
        memory: What each session looked like.
        training: Requests to the trainer; used only while there is one.
        history: Its numbers over the steps.
        has_trainer: Whether a training runs behind this viewer.
        queue: Renders and exports.
        frame: From the source frame to the training frame, where known.
        world: The frame people chose: up, origin, metres.
        up: Upward direction of the training frame before anybody chose one.
        exports: What can be exported besides pictures, by name.
        content_id: Names the weights that are shown.
        folder: Where files go.
        notice: Receives one-line messages for the terminal.
    """

    server: viser.ViserServer
    scheduler: Scheduler
    transport: Transport
    training_views: TrainingViews
    world: WorldFrames
    queue: RenderQueue
    folder: Path
    photos: Sequence[UInt8[np.ndarray, "h w C"]] = ()
    photo_names: Sequence[str] = ()
    memory: Memory = field(default_factory=Memory)
    training: TrainingDesk = field(default_factory=TrainingDesk)
    history: TrainHistory = field(default_factory=TrainHistory)
    has_trainer: bool = False
    frame: Similarity | None = None
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)
    exports: Mapping[str, ExportKind] = field(default_factory=dict)
    content_id: Callable[[], str] = lambda: ""
    notice: Callable[[str], None] = lambda text: None

    def sources(self) -> dict[str, Renderer]:
        """The renderers by name."""
        return self.scheduler.sources
