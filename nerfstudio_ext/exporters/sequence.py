"""A folder of frames that can be continued after a crash, and that several processes can fill together.

`frames.json` holds a hash of everything that decides the pixels. Frames appear under their names only when complete;
each finished file is then noted, with its SHA-256, in a journal of the process (`.finished-2-of-4.jsonl`). A run with
the same hash renders what is not noted or is not as noted; any other run needs permission to start afresh. The
finished export has the hashes in `frames.json` and no journals.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import UserError
from ..strict_json import read_json
from .options import OutputName
from .pictures import write_whole

MANIFEST = "frames.json"
JOURNALS = ".finished-*.jsonl"
MAX_JOURNAL_BYTES = MAX_MANIFEST_BYTES = 2**28
FRAME_SUFFIXES = (".png", ".jpg", ".npy", ".exr")
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class FrameFolder:
    """The files of an export, one per frame and output.

    Args:
        folder: Where they lie.
        files: File of each frame, relative to the folder, per output.
        document: Content of `frames.json`, with the entry `settings_sha256`.
        shard: (i, n) of this process, or None.
    """

    def __init__(
        self,
        folder: Path,
        files: Mapping[OutputName, list[str]],
        document: dict[str, object],
        shard: tuple[int, int] | None = None,
    ) -> None:
        self.folder, self.files, self.document = folder, dict(files), document
        part = "all" if shard is None else f"{shard[0]}-of-{shard[1]}"
        self._journal = folder / f".finished-{part}.jsonl"
        self._noted: dict[str, str] = {}

    def open(self, *, overwrite: bool) -> None:
        """Prepare the folder: take over what an earlier, equal run has finished, or start afresh.

        Raises:
            UserError: if the folder holds a finished or a different export, or files of the same names.
        """
        earlier = read_manifest(self.folder)
        taken = [name for names in self.files.values() for name in names if (self.folder / name).exists()]
        is_ours = earlier is not None and earlier.get("settings_sha256") == self.document["settings_sha256"]
        if is_ours and earlier is not None and not earlier.get("finished"):
            self._noted = noted_files(self.folder)
        elif overwrite:
            self._clear(earlier, taken)
        elif earlier is not None or taken:
            if is_ours:
                self._tidy()  # a kill may have come between the last hash and this
            what = "an export is already there" if earlier is not None else f"'{taken[0]}' is already there"
            raise UserError(what, where=self.folder, fix="Choose another name or allow overwriting")
        self._noted = {name: digest for name, digest in self._noted.items() if digest_of(self.folder / name) == digest}
        try:
            for name in {Path(names[0]).parent for names in self.files.values()}:
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            self._write_manifest({"finished": False})
        except OSError as error:
            raise UserError(f"cannot write: {error.strerror}", where=self.folder, fix="Make room there") from error

    def missing(self, i: int) -> list[OutputName]:
        """Outputs of frame `i` that no run has finished, as far as was known when the folder was opened."""
        return [name for name, files in self.files.items() if files[i] not in self._noted]

    def write(self, i: int, output: OutputName, content: bytes) -> None:
        """Store one output of frame `i` and note it.

        Raises:
            UserError: if the disk is full or the folder went away; what is finished stays.
        """
        name = self.files[output][i]
        try:
            write_whole(self.folder / name, content)
            self.note(name, hashlib.sha256(content).hexdigest())
        except OSError as error:
            n = len(self.files[output])
            done = sum(not self.missing(k) for k in range(n))
            what = "the disk is full" if error.errno in FULL_DISK else f"cannot write: {error.strerror}"
            raise UserError(
                f"{what} at frame {i + 1} of {n}; {done} finished frames are kept",
                where=self.folder,
                fix="Make room, then run the same command again: it continues there",
            ) from error

    def note(self, name: str, digest: str) -> None:
        """Write into the journal that a file is finished; a line that is cut off by a crash counts as not written."""
        line = json.dumps({"file": name, "sha256": digest})
        # Each line begins on its own, whatever a killed process left behind.
        with self._journal.open("ab") as journal:
            journal.write(f"\n{line}\n".encode())
        self._noted[name] = digest

    def noted(self, name: str) -> str | None:
        """The hash that was noted for a file, or None."""
        return self._noted.get(name)

    def finish(self) -> list[str]:
        """Mark the export as complete when it is; returns the files that are still to be rendered, by anyone."""
        wanted = [name for names in self.files.values() for name in names]
        noted = noted_files(self.folder) | self._noted
        left = [name for name in wanted if name not in noted]
        if left:
            earlier = read_manifest(self.folder)
            is_done = earlier is not None and earlier.get("finished") is True
            # Another shard may have ended between the two looks, and has taken the journals away.
            return [] if is_done else left
        self._write_manifest({"finished": True, "sha256": {name: noted[name] for name in wanted}})
        self._tidy()
        return []

    def paths(self, output: OutputName, indices: Iterable[int] | None = None) -> list[Path]:
        """The files of an output, all or of some frames."""
        names = self.files[output]
        return [self.folder / names[i] for i in (range(len(names)) if indices is None else indices)]

    def remove(self) -> None:
        """Delete the whole folder (work folders of films only), the notes last, so that a kill loses none of them."""
        for group in [path for path in self.folder.glob("*") if path.is_dir()]:
            shutil.rmtree(group, ignore_errors=True)
        for file in (file for names in self.files.values() for file in names):
            (self.folder / file).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _tidy(self) -> None:
        for file in (*self.folder.glob(JOURNALS), *self.folder.glob(f".{MANIFEST}.*.part")):
            file.unlink(missing_ok=True)

    def _write_manifest(self, state: dict[str, object]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / MANIFEST, document_text(self.document | state), is_shared=True)

    def _clear(self, earlier: Mapping[str, object] | None, taken: list[str]) -> None:
        """Remove frames of an earlier export and files that stand in the way; nothing else in the folder."""
        names = set(taken)
        listed = earlier.get("files") if earlier else None
        if isinstance(listed, dict):
            names |= {n for group in listed.values() if isinstance(group, list) for n in group if isinstance(n, str)}
        root = self.folder.resolve()
        for name in names:
            file = self.folder / name
            is_inside = file.resolve().is_relative_to(root) and file.suffix in FRAME_SUFFIXES
            if is_inside and file.is_file():
                file.unlink()
        for journal in self.folder.glob(JOURNALS):
            journal.unlink(missing_ok=True)
        (self.folder / MANIFEST).unlink(missing_ok=True)


def noted_files(folder: Path) -> dict[str, str]:
    """What the journals of a folder say is finished: file, relative to the folder, to its SHA-256."""
    noted: dict[str, str] = {}
    for journal in sorted(folder.glob(JOURNALS)):
        try:
            with journal.open("rb") as file:
                lines = file.read(MAX_JOURNAL_BYTES).splitlines()
        except OSError:
            continue  # another shard has finished the export meanwhile
        for line in lines:
            try:
                entry = json.loads(line)
                name, digest = entry["file"], entry["sha256"]
            except (ValueError, KeyError, TypeError):
                continue  # empty, or cut off
            if isinstance(name, str) and isinstance(digest, str):
                noted[name] = digest
    return noted


def digest_of(file: Path) -> str | None:
    """SHA-256 of a file, or None when it cannot be read."""
    try:
        found = hashlib.sha256()
        with file.open("rb") as content:
            while data := content.read(1 << 20):
                found.update(data)
    except OSError:
        return None
    return found.hexdigest()


def read_manifest(folder: Path) -> dict[str, object] | None:
    """The `frames.json` of a folder, {} when it is there but not ours, None when there is none."""
    file = folder / MANIFEST
    if not file.exists():
        return None
    try:
        return read_json(file, MAX_MANIFEST_BYTES)
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
