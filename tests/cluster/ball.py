"""The scene and the settings that one process and two train alike."""

from __future__ import annotations

from nerfstudio_ext.methods.ngp import NgpConfig
from nerfstudio_ext.scenes.model import Scene
from nerfstudio_ext.training.config import TrainConfig
from tests.training.test_resume_ngp import ball_scene as _ball_scene

STEPS = 36
"""Past two refreshes of the occupancy grid."""
METHOD = NgpConfig(
    n_levels=4, log2_table=10, base_resolution=4, finest_resolution=32, hidden=16, color_hidden=16, grid_size=16,
    steps_per_unit=32, samples_per_batch=1500, backend="reference",
)  # fmt: skip
TRAIN = TrainConfig(max_steps=STEPS, seed=5, steps_per_save=STEPS // 2, steps_per_log=3)


def ball_scene() -> Scene:
    """A ball with opacity, seen from eight cameras."""
    return _ball_scene(size=24)
