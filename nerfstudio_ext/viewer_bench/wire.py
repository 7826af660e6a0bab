"""A wire that is slower than loopback: a TCP proxy with a limited rate."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

CHUNK, BUFFER = 4096, 16384
"""Small kernel buffers, or seconds of frames hide in them."""
SERVER_OF: dict[int, int] = {}
"""Port behind each proxy that is open."""


@contextlib.contextmanager
def slow_wire(port: int, bytes_per_s: float, delay_s: float = 0.0) -> Iterator[tuple[int, threading.Event]]:
    """Let downstream bytes through at a limited rate; setting the event stops them altogether.

    Args:
        port: The server.
        bytes_per_s: Rate of what the server sends.
        delay_s: Added to every chunk of 4 kB.
    Yields:
        The port to connect to, and the event.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    is_blocked = threading.Event()
    is_over = threading.Event()

    def pump(source: socket.socket, sink: socket.socket, rate: float | None) -> None:
        free_at = time.perf_counter()
        with contextlib.suppress(OSError):
            while chunk := source.recv(CHUNK):
                if rate is not None:
                    while is_blocked.is_set() and not is_over.is_set():
                        time.sleep(0.02)
                    # By the clock and not by adding up sleeps, which are late on a busy machine.
                    free_at = max(free_at, time.perf_counter()) + len(chunk) / rate
                    time.sleep(max(0.0, free_at - time.perf_counter()) + delay_s)
                sink.sendall(chunk)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while not is_over.is_set():
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", port))
                far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
                near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
                threading.Thread(target=pump, args=(near, far, None), daemon=True).start()
                threading.Thread(target=pump, args=(far, near, bytes_per_s), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    proxy = listener.getsockname()[1]
    SERVER_OF[proxy] = port
    try:
        yield proxy, is_blocked
    finally:
        is_over.set()
        SERVER_OF.pop(proxy, None)
        listener.close()
