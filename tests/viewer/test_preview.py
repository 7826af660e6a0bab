"""A preview: shown until what is trained is better, kept to compare with."""

from __future__ import annotations

from nerfstudio_ext.progress import TrainStatus
from nerfstudio_ext.viewer import ViewerServer
from nerfstudio_ext.viewer.looks import MAIN
from nerfstudio_ext.viewer.server import SO_FAR
from tests.viewer.fakes import AzimuthRenderer, SphereRenderer, photos_of, ring_of_cameras


def status(psnr: float, state: str = "training") -> TrainStatus:
    return TrainStatus(100, 1000, 5.0, 60.0, {"rgb": 0.01}, psnr, 50.0, 4e5, state)


def test_a_preview_is_shown_until_training_is_better():
    viewer = ViewerServer(ring_of_cameras(4), photos_of(ring_of_cameras(4)), port=0)
    try:
        preview, weak, good, last = AzimuthRenderer(), SphereRenderer(), SphereRenderer(), SphereRenderer()
        viewer.set_preview(preview, "preview", 24.0)
        assert viewer.room.sources() == {MAIN: preview, "preview": preview}
        viewer.publish(weak, status(20.0))
        assert viewer.room.sources() == {MAIN: preview, "preview": preview, SO_FAR: weak}
        viewer.publish(good, status(25.0))
        assert viewer.room.sources()[MAIN] is good and viewer.room.sources()["preview"] is preview
        viewer.publish(last, status(1.0))
        assert viewer.room.sources()[MAIN] is last, "once it was better it stays"
        viewer.set_preview(preview, "preview", 90.0)
        viewer.publish(good, status(25.0, "done"))
        assert viewer.room.sources()[MAIN] is good, "what was trained is shown in the end"
    finally:
        viewer.close()
