"""Where the viewer listens: checks before viser is started, because viser waits for ever on a host it cannot bind."""

from __future__ import annotations

import socket

from ..errors import UserError

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 7007
N_TRIES = 50


def free_port(host: str, port: int) -> int:
    """The first free port from `port` on.

    Args:
        host: Address to bind.
        port: Port asked for; 0 takes one that the system chooses.
    Raises:
        UserError: if the host cannot be bound at all, or all of `N_TRIES` ports are taken.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"port {port} does not exist", where="--port", fix="Use a number from 1024 to 65535")
    free = _check_host(host)
    if port == 0:
        return free
    for candidate in range(port, min(port + N_TRIES, 65536)):
        if _is_free(host, candidate):
            return candidate
    last = min(port + N_TRIES, 65536) - 1
    raise UserError(f"ports {port} to {last} on {host} are taken", where="--port", fix="Choose another port")


def url_of(host: str, port: int) -> str:
    """The address to open in a browser on this machine."""
    shown = "localhost" if host in ("0.0.0.0", "::", "") else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"


def _check_host(host: str) -> int:
    """A port that the system has free there."""
    try:
        with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
            return int(probe.getsockname()[1])
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"the address '{host}' cannot be used: {error}",
            where="--host",
            fix="Use 127.0.0.1 (this machine only) or an address of this machine",
        ) from error


def _is_free(host: str, port: int) -> bool:
    with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
        # As the server itself will: a port whose last connection is still closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
