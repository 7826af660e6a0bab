"""A folder of frames that can be continued after a crash.

The folder's `frames.json` holds a hash of everything that decides the pixels. Frames appear under their names only
when complete; a run with the same hash renders what is missing, any other run needs permission to start afresh.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from ..errors import UserError
from ..strict_json import read_json
from .options import OutputName
from .pictures import is_whole, write_whole

MANIFEST = "frames.json"
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class FrameFolder:
    """The files of an export, one per frame and output.

    Args:
        folder: Where they lie.
        files: File of each frame, relative to the folder, per output.
        sizes: (width, height) of each frame.
        document: Content of `frames.json`, with the entry `settings_sha256`.
    """

    def __init__(
        self,
        folder: Path,
        files: Mapping[OutputName, list[str]],
        sizes: list[tuple[int, int]],
        document: dict[str, object],
    ) -> None:
        self.folder, self.files, self.sizes, self.document = folder, dict(files), sizes, document

    def open(self, *, overwrite: bool) -> int:
        """Prepare the folder and return the number of frames that an earlier, equal run has finished.

        Raises:
            UserError: if the folder holds a finished or a different export, or files of the same names.
        """
        earlier = read_manifest(self.folder)
        taken = [name for names in self.files.values() for name in names if (self.folder / name).exists()]
        is_ours = earlier is not None and earlier.get("settings_sha256") == self.document["settings_sha256"]
        if is_ours and earlier is not None and not earlier.get("finished"):
            done = sum(not self.missing(i) for i in range(len(self.sizes)))
        elif overwrite:
            self._clear(earlier, taken)
            done = 0
        elif earlier is not None or taken:
            what = "an export is already there" if earlier is not None else f"'{taken[0]}' is already there"
            raise UserError(what, where=self.folder, fix="Choose another name or allow overwriting")
        else:
            done = 0
        for name in {Path(names[0]).parent for names in self.files.values()}:
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._write_manifest(finished=False)
        return done

    def missing(self, i: int) -> list[OutputName]:
        """Outputs of frame `i` that are not there yet."""
        return [name for name, files in self.files.items() if not is_whole(self.folder / files[i], self.sizes[i])]

    def write(self, i: int, output: OutputName, content: bytes) -> None:
        """Store one output of frame `i`.

        Raises:
            UserError: if the disk is full or the folder went away; what is finished stays.
        """
        try:
            write_whole(self.folder / self.files[output][i], content)
        except OSError as error:
            n = len(self.sizes)
            what = "the disk is full" if error.errno in FULL_DISK else f"cannot write: {error.strerror}"
            raise UserError(
                f"{what} at frame {i + 1} of {n}; {i} finished frames are kept",
                where=self.folder,
                fix="Make room, then run the same command again: it continues there",
            ) from error

    def finish(self) -> None:
        """Mark the export as complete."""
        self._write_manifest(finished=True)

    def paths(self, output: OutputName) -> list[Path]:
        """All files of an output."""
        return [self.folder / name for name in self.files[output]]

    def remove(self) -> None:
        """Delete the whole folder (work folders of films only)."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write_manifest(self, *, finished: bool) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / MANIFEST, document_text(self.document | {"finished": finished}))
        except OSError as error:
            raise UserError(f"cannot write: {error.strerror}", where=self.folder, fix="Make room there") from error

    def _clear(self, earlier: Mapping[str, object] | None, taken: list[str]) -> None:
        """Remove frames of an earlier export and files that stand in the way; nothing else in the folder."""
        names = set(taken)
        listed = earlier.get("files") if earlier else None
        if isinstance(listed, dict):
            names |= {n for group in listed.values() if isinstance(group, list) for n in group if isinstance(n, str)}
        root = self.folder.resolve()
        for name in names:
            file = self.folder / name
            is_inside = file.resolve().is_relative_to(root) and file.suffix in (".png", ".jpg", ".npy")
            if is_inside and file.is_file():
                file.unlink()
        (self.folder / MANIFEST).unlink(missing_ok=True)


def read_manifest(folder: Path) -> dict[str, object] | None:
    """The `frames.json` of a folder, {} when it is there but not ours, None when there is none."""
    file = folder / MANIFEST
    if not file.exists():
        return None
    try:
        return read_json(file)
    except UserError:
        return {}


def document_text(document: Mapping[str, object]) -> bytes:
    """JSON with one line per entry and per camera, readable and not too long."""
    lines = []
    for key, value in document.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            rows = ",\n  ".join(json.dumps(row, allow_nan=False) for row in value)
            lines.append(f"{json.dumps(key)}: [\n  {rows}\n ]")
        else:
            lines.append(f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}")
    return ("{\n " + ",\n ".join(lines) + "\n}\n").encode()
