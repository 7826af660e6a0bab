"""Several owners in one scene: each has a region of views, and pictures from there say who it is.

Cameras are divided by where they stand; a view belongs to the owner of the camera nearest to it. Owners are told apart
by their codewords, so these must differ in enough places that no damage which leaves one readable makes it another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ...cameras import Camera, Cameras
from ...errors import UserError
from .extraction import extract
from .extractor import Extractor
from .keys import Key
from .messages import Layout, Message
from .payload import write_code
from .scale_search import View

MIN_DISTANCE = 0.2
"""Share of the code bits in which two owners must differ: what the identity codes guarantee (27 of 127, 63 of 255), and
what random 48-bit identities without check bits have."""
_ROUNDS = 50
"""Of moving cameras between regions; it settles long before."""


@dataclass(frozen=True)
class Owners:
    """Who owns which views of a scene.

    Attributes:
        messages: One per owner.
        cameras: Of the capture, in the training frame.
        owner_of_camera: Number of the owner of each.
        signs: [owners,N] signs of each owner's code bits.
        min_distance: Code bits in which the two most similar owners differ; None for a single owner.
    """

    messages: tuple[Message, ...]
    cameras: Cameras
    owner_of_camera: tuple[int, ...]
    signs: Float[Tensor, "O N"]
    min_distance: int | None

    def of(self, cameras: Sequence[Camera]) -> list[int]:
        """Number of the owner of each view: that of the nearest camera of the capture, by place and direction."""
        if len(self.messages) == 1:
            return [0] * len(cameras)
        places, forward = self.cameras.c2w[:, :, 3], self.cameras.c2w[:, :, 2]
        spread = float((places - places.mean(0)).norm(dim=1).mean()) or 1.0
        owners = []
        for camera in cameras:
            away = (places - camera.c2w[:, 3]).norm(dim=1) / spread
            turned = (forward - camera.c2w[:, 2]).norm(dim=1)
            owners.append(self.owner_of_camera[int((away + turned).argmin())])
        return owners

    def code_of(self, cameras: Sequence[Camera]) -> Callable[[int], Float[Tensor, " N"]]:
        """The signs that each of some views, given by its number, is to show."""
        owners = self.of(cameras)
        return lambda index: self.signs[owners[index]]

    def to_json(self) -> dict[str, object]:
        """Who has which camera, by numbers; no identity is told."""
        return {
            "count": len(self.messages),
            "min_distance": self.min_distance,
            "owner_of_camera": list(self.owner_of_camera),
        }


def share_out(messages: Sequence[Message], cameras: Cameras, key: Key, layout: Layout) -> Owners:
    """Give every owner a region of the cameras.

    Args:
        messages: One per owner.
        cameras: Of the capture.
        key: The one key of the scene.
        layout: The code of all messages.
    Raises:
        UserError: if two identities are equal or too similar, or there are fewer cameras than owners.
    """
    if len(messages) > len(cameras):
        raise UserError(f"{len(messages)} owners, but {len(cameras)} cameras", fix="Name fewer owners")
    words = [write_code(message, key, layout) for message in messages]
    distance = _least_distance(messages, words)
    signs = torch.from_numpy(2 * np.stack(words).astype(np.float32) - 1)
    return Owners(tuple(messages), cameras, tuple(regions(cameras, len(messages))), signs, distance)


def _least_distance(messages: Sequence[Message], words: Sequence[np.ndarray]) -> int | None:
    pairs = list(combinations(range(len(messages)), 2))
    distances = {pair: int(np.count_nonzero(words[pair[0]] != words[pair[1]])) for pair in pairs}
    for (i, j), distance in distances.items():
        n = len(words[i])
        if distance < math.ceil(MIN_DISTANCE * n):
            what = "are equal" if not distance else f"differ in {distance} of {n} code bits only"
            raise UserError(
                f"the identities of owners {i + 1} and {j + 1} {what}; at least {math.ceil(MIN_DISTANCE * n)} must "
                "differ", where="--payload-id", fix="Choose other identities, or a code with check bits",
            )  # fmt: skip
    return min(distances.values(), default=None)


def confusion_matrix(
    pictures: Sequence[UInt8[np.ndarray, "H W 3"]], whose: Sequence[int], owners: Owners, key: Key, extractor: Extractor
) -> list[list[int]]:
    """How many pictures of each owner's region (row) are recognised as whose, each alone; the last column: nobody's.

    Args:
        pictures: Of any regions.
        whose: Number of the owner of each.
        owners: Who there is.
        key: Of the scene.
        extractor: Reads the pictures.
    """
    matrix = [[0] * (len(owners.messages) + 1) for _ in owners.messages]
    for picture, owner in zip(pictures, whose, strict=True):
        found = extract([View("", picture)], key, extractor=extractor, expected=owners.messages)
        is_known = found.present and found.message in owners.messages
        matrix[owner][owners.messages.index(found.message) if is_known and found.message else -1] += 1
    return matrix


def regions(cameras: Cameras, count: int) -> list[int]:
    """Divide cameras into regions by where they stand (k-means from centres that are far apart); none is empty."""
    places = cameras.c2w[:, :, 3].double()
    first = int((places - places.mean(0)).norm(dim=1).argmax())
    chosen = [first]
    while len(chosen) < count:
        distance = torch.cdist(places, places[chosen]).amin(1)
        distance[chosen] = -1.0
        chosen.append(int(distance.argmax()))
    centres = places[chosen].clone()
    owner = torch.cdist(places, centres).argmin(1)
    for _ in range(_ROUNDS):
        for number in range(count):
            mine = owner == number
            if bool(mine.any()):
                centres[number] = places[mine].mean(0)
        moved = torch.cdist(places, centres).argmin(1)
        if len(moved.unique()) < count or torch.equal(moved, owner):
            break
        owner = moved
    for number in set(range(count)) - set(owner.tolist()):  # cameras at one place: somebody must get something
        owner[chosen[number]] = number
    return [int(number) for number in owner]
