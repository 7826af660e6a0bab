"""Reaching a Ray cluster, or starting one on this machine; Ray is optional."""

from __future__ import annotations

import importlib
import os
import secrets
import warnings
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import UserError

LOCAL = "local"


@contextmanager
def connected(address: str, n_cpus: int) -> Iterator[Any]:
    """Ray, connected to a cluster for as long as the context lasts.

    Nothing is reported to anybody, no dashboard is started.

    Args:
        address: `local` starts a Ray of its own on this machine; else `HOST:PORT`, `ray://HOST:PORT` or `auto`.
        n_cpus: Processors of a local Ray.
    Yields:
        The module `ray`.
    Raises:
        UserError: if Ray is not installed, or no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's workers give way to all other work; here somebody waits for them.
    os.environ.setdefault("RAY_worker_niceness", "0")
    _choose_access(address, os.environ)
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise UserError(
            f"Ray cannot be loaded ({error})", where="--ray", fix="Install it: pip install 'nerfstudio-ext[cluster]'"
        ) from None
    settings: dict[str, Any] = {"address": address}
    if address == LOCAL:
        settings |= {"num_cpus": n_cpus, "include_dashboard": False}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Ray about its own future
            ray.init(log_to_driver=False, logging_level="ERROR", **settings)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"no Ray cluster answers ({reason})",
            where=f"--ray {address}",
            fix="Start one with `ray start --head` (where it wants a token, set RAY_AUTH_MODE=token and give the token "
            "as Ray's documentation says), or use --ray local",
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _choose_access(address: str, environ: MutableMapping[str, str]) -> None:
    """Let only those who know a token into a Ray; what somebody has set stays.

    A local Ray gets a token of its own that nobody else learns. For a cluster the token is used that `ray start` uses
    by default: it does as soon as there is one, while programs that connect would have to be told.
    """
    if "RAY_AUTH_MODE" in environ:
        return
    has_token = "RAY_AUTH_TOKEN" in environ or "RAY_AUTH_TOKEN_PATH" in environ
    if address == LOCAL and not has_token:
        environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    elif not has_token and not (Path.home() / ".ray" / "auth_token").exists():
        return
    environ["RAY_AUTH_MODE"] = "token"


def n_processors(ray: Any) -> int:
    """Processors of the whole cluster."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))
