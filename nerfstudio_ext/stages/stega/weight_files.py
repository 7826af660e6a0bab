"""Networks in safetensors files that say what they are and notice damage: what extractors and decoders are kept in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from safetensors.torch import save as pack_safetensors
from torch import Tensor, nn

from ...errors import UserError
from ...tensor_files import Source, read_tensors

_MAX_BYTES = 16 << 20
_AGAIN = "Get the file again"

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class WeightFormat:
    """One kind of file.

    Attributes:
        article: "a" or "an".
        noun: What it holds, in messages.
        name: The format's name inside the file.
        version: Of the format; others are refused.
    """

    article: str
    noun: str
    name: str
    version: int

    def save(self, network: nn.Module, path: Path, notes: Mapping[str, str] | None = None) -> None:
        """Write a network's state with its checksum; a file that is there already is replaced at the end only.

        Args:
            network: What to save.
            path: File.
            notes: Text to keep with it.
        """
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
        metadata = {
            **(notes or {}),
            "format": self.name,
            "format_version": str(self.version),
            "sha256": checksum(tensors),
        }
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_bytes(pack_safetensors(tensors, metadata))
        temporary.replace(path)

    def load(self, source: Source, make: Callable[[dict[str, str]], Network]) -> tuple[Network, dict[str, str]]:
        """Read a network, ready for use (evaluation mode, CPU), and the notes beside it.

        Args:
            source: File that `save` wrote.
            make: A network of the right shape for these notes; ValueError or KeyError if they make no sense.
        Raises:
            UserError: if the file is missing, too large, of another kind or a later version, or damaged.
        """
        tensors, notes = self._read(source)
        where = str(source)
        if notes.get("format") != self.name:
            raise UserError(
                f"a tensor file, but not {self.article} {self.noun}", where=where, fix="Pass the right file"
            )
        if notes.get("format_version") != str(self.version):
            found = f"{self.noun} format {notes.get('format_version', 'none')}"
            raise UserError(
                f"{found}; this version reads {self.version}", where=where, fix="Upgrade nerfstudio-ext"
            )  # fmt: skip
        try:
            network = make(notes)
        except (ValueError, KeyError):
            raise UserError("damaged: its notes make no sense", where=where, fix=_AGAIN) from None
        if _shapes(tensors) != _shapes(network.state_dict()):
            raise UserError(
                f"{self.article} {self.noun} of another shape than this version uses",
                where=where,
                fix="Use the version that wrote it, or train it again",
            )
        if notes.get("sha256") != checksum(tensors):
            raise UserError("damaged: the weights do not match their checksum", where=where, fix=_AGAIN)
        if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
            raise UserError("damaged: a weight is not finite", where=where, fix=_AGAIN)
        network.load_state_dict(tensors)
        return network.eval(), notes

    def notes(self, source: Source) -> dict[str, str]:
        """The notes of a file of any format, its name among them; raises as `load` where there are none."""
        return self._read(source)[1]

    def _read(self, source: Source) -> tuple[dict[str, Tensor], dict[str, str]]:
        return read_tensors(source, max_bytes=_MAX_BYTES, noun=self.noun, fix=_AGAIN)


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values; safetensors itself does not notice a flipped bit."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
