"""Who may open the page: a token in the printed link, a signed cookie from then on, checks of Host and Origin.

The checks are those that Jupyter makes. Without them any web page that is open in the same browser could talk to the
viewer: a WebSocket is not held back by the same-origin policy, and a name that its owner points to 127.0.0.1 passes
as this machine unless the Host header is read.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import SplitResult, parse_qs, urlsplit

Role = Literal["owner", "watcher"]
ROLES: tuple[Role, ...] = get_args(Role)
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
ANY_ADDRESS = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - compared with, not bound to
SECRET_BYTES, TOKEN_CHARACTERS = 32, 32
"""128 bits of token cannot be guessed, whatever the rate."""
MAX_PATH = 2048
NO_FRAMES = {
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Nobody may put the page in a frame and lead clicks to it; the token does not leave in a Referer."""
_HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[^:\[\]/\\@\s]+)(:\d{1,5})?")
_COOKIE = re.compile(r"(owner|watcher)\.([0-9a-f]{32})\.([0-9a-f]{32})")


@dataclass(frozen=True)
class Visitor:
    """Whoever holds a valid cookie.

    Attributes:
        role: The owner steers training and exports; a watcher looks around.
        session: The same for all tabs and reloads of one browser.
    """

    role: Role
    session: str


@dataclass(frozen=True)
class Answer:
    """An HTTP answer given in place of the page."""

    status: int
    text: str
    headers: tuple[tuple[str, str], ...] = ()


class Gate:
    """Decides about every HTTP request, WebSocket handshakes included.

    Args:
        secret: Random bytes that tokens and cookies are made from; the same secret opens the same links again.
        port: Port of the server: browsers send a cookie to every port of a host, so its name must tell them apart.
        host: Address the server listens on.
        names: Further names under which the page may be opened (behind a proxy of one's own).
    """

    def __init__(self, secret: bytes, port: int, host: str = "127.0.0.1", names: Iterable[str] = ()) -> None:
        self._secret = secret
        self.cookie_name = f"nsx-{port}"
        self._is_open = host in ANY_ADDRESS
        own = {socket.gethostname(), socket.getfqdn(), f"{socket.gethostname()}.local"} if self._is_open else {host}
        self._names = LOOPBACK_NAMES | {name.lower().strip("[]") for name in (*own, *names) if name}

    @classmethod
    def fresh(cls, port: int, host: str = "127.0.0.1") -> Gate:
        """A gate whose links are valid for this server only."""
        return cls(fresh_secret(), port, host)

    def token(self, role: Role) -> str:
        """What the link of a role carries."""
        return self._sign(f"token {role}")

    def cookie(self, role: Role, session: str | None = None) -> str:
        """`name=value` of a cookie for a new session, or for a given one."""
        session = session or secrets.token_hex(16)
        return f"{self.cookie_name}={role}.{session}.{self._sign(f'cookie {role} {session}')}"

    def visitor(self, cookies: Iterable[str]) -> Visitor | None:
        """Whoever the Cookie headers of a request belong to; None without a valid one."""
        for header in cookies:
            for part in header.split(";"):
                name, _, value = part.strip().partition("=")
                found = _COOKIE.fullmatch(value) if name == self.cookie_name else None
                if found and hmac.compare_digest(found[3], self._sign(f"cookie {found[1]} {found[2]}")):
                    return Visitor("owner" if found[1] == "owner" else "watcher", found[2])
        return None

    def answer(
        self, path: str, hosts: list[str], origins: list[str], cookies: list[str], *, is_websocket: bool
    ) -> Answer | None:
        """What to answer in place of the page; None lets the request through.

        Args:
            path: Path and query.
            hosts: All Host headers; one is required.
            origins: All Origin headers; browsers send one with every WebSocket.
            cookies: All Cookie headers.
            is_websocket: Whether this is a WebSocket handshake.
        """
        host = self._allowed_host(hosts)
        if host is None:
            return Answer(403, "This name is not one of the viewer's. Open it as localhost, or allow the name.")
        if len(origins) > 1 or any(_parts(origin).netloc.lower() != host for origin in origins):
            return Answer(403, "Pages of other sites may not talk to the viewer.")
        visitor = self.visitor(cookies)
        tokens = parse_qs(_parts(path).query).get("token", []) if len(path) <= MAX_PATH else ["too long"]
        if tokens and not is_websocket:
            return self._exchange(tokens, visitor)
        if visitor is None:
            return Answer(401, "Open the link that nsx printed; it carries the key to this page.")
        return None

    def _exchange(self, tokens: list[str], visitor: Visitor | None) -> Answer:
        """A cookie for a token; who comes back with the same role keeps their session."""
        for role in ROLES:
            if len(tokens) == 1 and hmac.compare_digest(tokens[0].encode(), self.token(role).encode()):
                session = visitor.session if visitor is not None and visitor.role == role else None
                cookie = f"{self.cookie(role, session)}; Path=/; HttpOnly; SameSite=Strict; Max-Age=31536000"
                return Answer(302, "", (("Location", "/"), ("Set-Cookie", cookie)))
        return Answer(401, "This link is not valid any more. Open the link that nsx printed last.")

    def _allowed_host(self, hosts: list[str]) -> str | None:
        """The Host header in lower case if the page may be opened under it."""
        found = _HOST.fullmatch(hosts[0].strip()) if len(hosts) == 1 else None
        if found is None:
            return None
        name = found["name"].lower().strip("[]")
        if name in self._names or (self._is_open and _is_address(name)):
            return hosts[0].strip().lower()
        return None

    def _sign(self, text: str) -> str:
        return hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()[:TOKEN_CHARACTERS]


def fresh_secret() -> bytes:
    """A random secret."""
    return secrets.token_bytes(SECRET_BYTES)


def _parts(url: str) -> SplitResult:
    """The parts of an address, all empty where it is none (`http://[x`)."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _is_address(name: str) -> bool:
    """A numeric address: a name of somebody else's can be pointed here, a number cannot."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
