"""An object from one photo is looked at from all around; captures from where they were photographed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch

from nerfstudio_ext.camera_paths import orbit
from nerfstudio_ext.scenes.prepared import PreparedNotes, PreparedPhoto
from nerfstudio_ext.scenes.viewpoints import is_lifted, seen_all_around, viewpoints


def lifted(elevation: float = 15.0):
    notes = PreparedNotes(elevation_deg=elevation)
    return PreparedPhoto(np.zeros((32, 32, 4), np.uint8), None, notes).scene("egg", Path()).meta


def test_a_lifted_object_is_seen_from_all_sides():
    meta = lifted()
    around = seen_all_around(meta)
    assert is_lifted(meta) and is_lifted(around) and seen_all_around(around) is around
    assert torch.equal(around.cameras[0].c2w, meta.cameras[0].c2w)
    centres = viewpoints(meta).c2w[:, :, 3]
    torch.testing.assert_close(centres.norm(dim=1), torch.full((24,), 1.8, dtype=torch.float64))
    axes = viewpoints(meta).c2w[:, :, 2]
    torch.testing.assert_close(axes * 1.8, -centres)  # all look at the centre
    assert centres[:, :2].mean(0).norm() < 1e-9 and len(around.image_names) == len(set(around.image_names)) == 24


def test_an_orbit_of_it_is_a_full_turn():
    path = orbit(viewpoints(lifted()), seconds=1, fps=12)
    assert not path.notes
    azimuths = torch.atan2(path.cameras.c2w[:, 1, 3], path.cameras.c2w[:, 0, 3]).sort().values
    assert azimuths.diff().max() < 0.6  # a twelfth of a turn is 0.52


def test_a_photo_from_high_up_is_not_seen_from_beyond_the_pole():
    assert (viewpoints(lifted(80.0)).c2w[:, 2, 3] > 0).all()


def test_captures_keep_their_cameras():
    meta = dataclasses.replace(lifted(), image_names=("a.jpg",))
    assert seen_all_around(meta) is meta and len(viewpoints(meta)) == 1
    assert not is_lifted(dataclasses.replace(meta, image_names=()))
    assert not is_lifted(dataclasses.replace(meta, image_names=("front.png", "back.png")))
