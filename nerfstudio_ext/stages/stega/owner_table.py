"""Whether several owners of one scene are still told apart after what happens to pictures."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

from ...methods.marked import Marked
from ...progress import Progress
from ...scenes.model import SceneMeta
from .base_views import base_views
from .extractor import MIN_SIDE
from .identities import Owners, confusion_matrix
from .marked_run import unseen_cameras
from .ordeals import Ordeal, Picture, picture_ordeals
from .reading_back import Reader
from .robustness import RobustnessSettings


@dataclass(frozen=True)
class OwnerRow:
    """One line of the table.

    Attributes:
        group: What kind of thing happened.
        amount: How much of it.
        confusion: Owners x recognised owner, the last column for nobody.
    """

    group: str
    amount: str
    confusion: list[list[int]]

    @property
    def counts(self) -> tuple[int, int, int]:
        """Pictures recognised as their owner's, as another's, and as nobody's."""
        own = sum(row[number] for number, row in enumerate(self.confusion))
        nobody = sum(row[-1] for row in self.confusion)
        return own, sum(map(sum, self.confusion)) - own - nobody, nobody

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"group": self.group, "amount": self.amount, "confusion": self.confusion}


def measure_owners(
    marked: Marked, meta: SceneMeta, owners: Owners, reader: Reader, settings: RobustnessSettings, progress: Progress
) -> list[OwnerRow]:
    """Recognise unseen views of all regions after what may happen to pictures.

    Args:
        marked: A run with several owners.
        meta: Its capture.
        owners: Who owns which views.
        reader: Knows key and extractor.
        settings: Views, size, kinds of ordeals and seed are used.
        progress: Told about every stage.
    """
    cameras = unseen_cameras(meta, settings.size, settings.views, settings.seed + 1)
    progress.stage("rendering unseen views", len(cameras))
    pictures = [view.picture(marked.correction, meta.background) for view in base_views(marked.base, cameras, progress)]
    whose = owners.of(list(cameras))
    ordeals = picture_ordeals(settings.groups)
    progress.stage("recognising pictures after what happens to them", len(ordeals))
    rows = []
    for done, ordeal in enumerate(ordeals, start=1):
        pairs = [(_after(ordeal, p, i, settings.seed), o) for i, (p, o) in enumerate(zip(pictures, whose, strict=True))]
        readable = [(picture, owner) for picture, owner in pairs if min(picture.shape[:2]) >= MIN_SIDE]
        if readable:
            changed, of = zip(*readable, strict=True)
            rows.append(
                OwnerRow(
                    ordeal.group, ordeal.amount, confusion_matrix(changed, of, owners, reader.key, reader.extractor)
                )
            )
        progress.advance(done, ordeal.group)
    return rows


def _after(ordeal: Ordeal, picture: Picture, number: int, seed: int) -> Picture:
    return ordeal.change(picture, number + zlib.crc32(f"{ordeal.group} {ordeal.amount} {seed}".encode()))
