"""The camera path of one browser: its key frames as drawn, dragged and flown through."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import viser
import viser.transforms

from ..camera_paths import CameraPath, DraftKey, PathDraft
from ..errors import UserError
from .desk import assign
from .looks import Pose
from .training_views import Stand, go_to

if TYPE_CHECKING:
    from .desk import Desk

KEY_COLOUR, CHOSEN_COLOUR, LINE_COLOUR = (92, 200, 255), (255, 255, 120), (92, 200, 255)
KEY_SIZE, GIZMO_SIZE = 0.07, 0.3
"""Sizes of drawn keys and of the gizmo, as shares of the cameras' distance to what they see."""
LINE_POINTS = 120
SHORTEST_FRAME_S = 1 / 60


class PathEditor:
    """Holds the draft of a desk, keeps it over a reload, draws it, plays it.

    Attributes:
        draft: The path.
        chosen: Index of the chosen key; None without one.
        on_change: Called after every change, to refresh the panels.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.draft: PathDraft = desk.remembered.draft
        self.chosen: int | None = 0 if self.draft.keys else None
        self.on_change: list[Callable[[], None]] = []
        self.shows_keys, self.shows_line, self.moves_keys = True, True, True
        self._drawn: list[Any] = []
        self._gizmo: viser.TransformControlsHandle | None = None
        self._line: Any = None
        self._cached: tuple[PathDraft, CameraPath] | None = None
        self.player = Player(desk, self)
        self.draw()

    # -- changes --------------------------------------------------------------------------------------------------

    def set(self, draft: PathDraft, chosen: int | None = None) -> None:
        """Take a changed draft."""
        self.draft = draft
        last = len(draft.keys) - 1
        wanted = self.chosen if chosen is None else chosen
        self.chosen = None if last < 0 else min(max(wanted or 0, 0), last)
        self._desk.keep(draft=draft)
        self.draw()
        self._changed()

    def change(self, **changes: object) -> None:
        """Change settings of the draft."""
        self.set(self.draft.changed(**changes))

    def choose(self, index: int) -> None:
        """Choose a key."""
        self.set(self.draft, index)

    def add_here(self) -> None:
        """Add the browser's camera as a key behind the chosen one."""
        view = self._desk.view
        if view is None:
            raise UserError("there is no camera yet", fix="Look at the scene first")
        key = DraftKey(view.camera(view.width).c2w)
        at = len(self.draft.keys) if self.chosen is None else self.chosen + 1
        self.set(self.draft.added(key, self.chosen), at)

    def set_here(self) -> None:
        """Move the chosen key to the browser's camera."""
        view = self._desk.view
        if view is not None:
            self.set(self.draft.with_key(self.need_chosen(), c2w=view.camera(view.width).c2w))

    def go_to_chosen(self) -> None:
        """Move the browser's camera to the chosen key."""
        key = self.draft.keys[self.need_chosen()]
        reach = self._desk.room.training_views.reach
        eye, forward = key.c2w[:, 3], key.c2w[:, 2]
        fov = np.deg2rad(self.draft.key_fov_deg(self.need_chosen()))
        go_to(self._desk.client, Stand(eye, eye + reach * forward, float(fov)))

    def need_chosen(self) -> int:
        """The chosen key.

        Raises:
            UserError: if there is none.
        """
        if self.chosen is None:
            raise UserError("there are no key frames", where="camera path", fix="Add one from the present view")
        return self.chosen

    def path(self) -> CameraPath:
        """The cameras of the path, with the present crop box; made anew only when the draft changed."""
        if self._cached is None or self._cached[0] is not self.draft:
            self._cached = (self.draft, self.draft.to_path())
        return self._cached[1]

    # -- drawing --------------------------------------------------------------------------------------------------

    def draw(self) -> None:
        """Draw keys, curve and gizmo anew."""
        with self._desk.client.atomic():
            for handle in (*self._drawn, self._gizmo, self._line):
                if handle is not None:
                    handle.remove()
            self._drawn, self._gizmo, self._line = [], None, None
            if self.shows_keys:
                self._drawn = [self._draw_key(i) for i in range(len(self.draft.keys))]
                if self.moves_keys and self.chosen is not None:
                    self._gizmo = self._draw_gizmo(self.draft.keys[self.chosen])
            self._draw_line()

    def _draw_key(self, index: int) -> viser.CameraFrustumHandle:
        key, reach = self.draft.keys[index], self._desk.room.training_views.reach
        handle = self._desk.scene.add_camera_frustum(
            f"/path/key{index:04d}",
            fov=float(np.deg2rad(min(self.draft.key_fov_deg(index), 120.0))),
            aspect=self.draft.size[0] / self.draft.size[1],
            scale=KEY_SIZE * reach,
            thickness=1.5,
            thickness_units="screen",
            color=CHOSEN_COLOUR if index == self.chosen else KEY_COLOUR,
            wxyz=wxyz_of(key.c2w),
            position=key.c2w[:, 3].numpy(),
            cast_shadow=False,
            receive_shadow=False,
        )
        self._desk.on(handle.on_click, lambda: self.choose(index))
        return handle

    def _draw_gizmo(self, key: DraftKey) -> viser.TransformControlsHandle:
        scale = GIZMO_SIZE * self._desk.room.training_views.reach
        gizmo = self._desk.scene.add_transform_controls(
            "/path/gizmo", scale=scale, depth_test=False, wxyz=wxyz_of(key.c2w), position=key.c2w[:, 3].numpy(),
            visible=not self._stands_in_gizmo(key),
        )  # fmt: skip
        self._desk.on(gizmo.on_update, self._dragged)
        return gizmo

    def follow_camera(self) -> None:
        """Hide the gizmo while the camera stands in it: whoever added a key there would drag the key, not the view."""
        if self._gizmo is not None and self.chosen is not None:
            assign(self._gizmo, "visible", not self._stands_in_gizmo(self.draft.keys[self.chosen]))

    def _stands_in_gizmo(self, key: DraftKey) -> bool:
        view = self._desk.view
        if view is None:
            return False
        distance = float(np.linalg.norm(np.array(view.position) - key.c2w[:, 3].numpy()))
        return distance < 1.5 * GIZMO_SIZE * self._desk.room.training_views.reach

    def _draw_line(self) -> None:
        if self._line is not None:
            self._line.remove()
            self._line = None
        if not self.shows_line or len(self.draft.keys) < 2:
            return
        try:
            curve = self.draft.curve()
        except UserError:
            return  # two equal keys in a row, just after "duplicate": drawn again when one is moved
        points = curve.at(np.linspace(curve.knots[0], curve.knots[-1], LINE_POINTS))[0]
        self._line = self._desk.scene.add_spline_catmull_rom(
            "/path/line", points, tension=0.5, thickness=2.0, thickness_units="screen", color=LINE_COLOUR
        )

    def _dragged(self) -> None:
        if self._gizmo is None or self.chosen is None:
            return
        rotation = viser.transforms.SO3(np.array(self._gizmo.wxyz, float)).as_matrix()
        c2w = torch.from_numpy(np.concatenate([rotation, np.array(self._gizmo.position, float)[:, None]], 1))
        if not bool(c2w.isfinite().all()):
            return
        # Nothing is drawn anew while it is dragged, or the gizmo would slip out of the hand.
        self.draft = self.draft.with_key(self.chosen, c2w=c2w)
        self._desk.keep(draft=self.draft)
        handle = self._drawn[self.chosen]
        handle.wxyz, handle.position = wxyz_of(c2w), c2w[:, 3].numpy()
        self._draw_line()
        self._changed()

    def _changed(self) -> None:
        for action in self.on_change:
            action()


class Player:
    """Flies through a path in one browser: its pictures show the path's camera in place of the browser's own."""

    def __init__(self, desk: Desk, editor: PathEditor) -> None:
        self._desk, self._editor = desk, editor
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.frame = 0
        desk.on_leave.append(self.stop)

    @property
    def is_playing(self) -> bool:
        """Whether it flies right now."""
        return self._thread is not None and self._thread.is_alive()

    def show(self, frame: int) -> None:
        """Show one frame of the path."""
        self.stop()
        path = self._editor.path()
        self.frame = min(max(frame, 0), len(path) - 1)
        self._desk.change(pose=Pose(path.cameras[self.frame]), photo=None)

    def play(self) -> None:
        """Fly from the present frame, or from the start when it is the last."""
        self.stop()
        path = self._editor.path()
        start = 0 if self.frame >= len(path) - 1 else self.frame
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._fly, args=(path, start, self._stop), name="nsx-player", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Hold at the present frame."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=2.0)

    def leave(self) -> None:
        """Go back to the browser's own camera."""
        self.stop()
        self._desk.change(pose=None)

    def _fly(self, path: CameraPath, start: int, stop: threading.Event) -> None:
        """By the clock, so that slow pictures are left out and the path keeps its time."""
        began = time.perf_counter()
        self._desk.change(pose=Pose(path.cameras[start]), photo=None)
        while not stop.wait(max(SHORTEST_FRAME_S, 1 / path.fps)):
            if self._desk.look.pose is None:
                return  # the visitor moved the camera
            frame = start + int((time.perf_counter() - began) * path.fps)
            if frame >= len(path) and not path.is_loop:
                self.frame = len(path) - 1
                self._desk.change(pose=Pose(path.cameras[self.frame]))
                return
            self.frame = frame % len(path)
            self._desk.change(pose=Pose(path.cameras[self.frame]))


def wxyz_of(c2w: torch.Tensor) -> np.ndarray[Any, Any]:
    """Quaternion of a pose."""
    return viser.transforms.SO3.from_matrix(c2w[:, :3].numpy()).wxyz
