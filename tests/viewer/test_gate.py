"""Who gets in: tokens, cookies, Host and Origin; and what a visitor may send."""

from __future__ import annotations

import http.client
import os
import socket
import stat
import time

import msgspec.msgpack
import pytest
import viser
from viser import _messages
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from nerfstudio_ext.cli.viewer_links import link_lines, viewer_secret
from nerfstudio_ext.viewer import ViewerServer
from nerfstudio_ext.viewer.gate import Gate, Visitor
from nerfstudio_ext.viewer.incoming import MAX_CLIENTS, MAX_UPLOAD_BYTES, Uploads, could_show, is_plain_value
from nerfstudio_ext.viewer_bench.browser import cookie_from
from tests.viewer.fakes import AzimuthRenderer, FakeBrowser, ring_of_cameras

GATE = Gate(b"s" * 32, 7007)
HOST = ["localhost:7007"]
COOKIE = [GATE.cookie("watcher", "0" * 32)]


def status(gate: Gate = GATE, path: str = "/", hosts=None, origins=(), cookies=(), is_websocket: bool = False) -> int:
    found = gate.answer(path, list(hosts or HOST), list(origins), list(cookies), is_websocket=is_websocket)
    return 200 if found is None else found.status


def test_a_cookie_opens_and_says_who_it_is() -> None:
    assert status(cookies=COOKIE) == 200
    assert GATE.visitor(COOKIE) == Visitor("watcher", "0" * 32)
    assert GATE.visitor([f"other=1; {COOKIE[0]}; more=2"]) == Visitor("watcher", "0" * 32)


@pytest.mark.parametrize("forged", [
    "", "nsx-7007=", COOKIE[0].replace("watcher", "owner"), COOKIE[0][:-1] + ("0" if COOKIE[0][-1] != "0" else "1"),
    COOKIE[0].replace("7007", "7008"), Gate(b"t" * 32, 7007).cookie("owner"), COOKIE[0] + "x",
    COOKIE[0].replace("0" * 32, "1" * 32),
], ids=range(8))  # fmt: skip
def test_no_other_cookie_does(forged: str) -> None:
    assert status(cookies=[forged]) == 401 and GATE.visitor([forged]) is None


@pytest.mark.parametrize("role", ["owner", "watcher"])
def test_a_link_becomes_a_cookie_of_its_role_and_keeps_a_session(role) -> None:
    found = GATE.answer(f"/?token={GATE.token(role)}", HOST, [], [], is_websocket=False)
    assert found is not None and found.status == 302
    headers = dict(found.headers)
    assert headers["Location"] == "/" and "HttpOnly" in headers["Set-Cookie"]
    assert "SameSite=Strict" in headers["Set-Cookie"]
    cookie = headers["Set-Cookie"].partition(";")[0]
    visitor = GATE.visitor([cookie])
    assert visitor is not None and visitor.role == role
    again = GATE.answer(f"/?token={GATE.token(role)}", HOST, [], [cookie], is_websocket=False)
    assert again is not None and dict(again.headers)["Set-Cookie"].startswith(cookie)


@pytest.mark.parametrize("path", ["/?token=", "/?token=x", "/?token=a&token=b", "/?token=" + "9" * 5000, "/?token=%ff"])
def test_a_wrong_token_is_refused(path: str) -> None:
    assert status(path=path) == 401
    assert status(path=f"/?token={GATE.token('owner')}", is_websocket=True) == 401, "tokens are for pages only"


@pytest.mark.parametrize("host", [
    "evil.example", "evil.example:7007", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.1@evil.example",
    "", "10.0.0.1:7007", "[::2]:7007", "localhost:7007:1", "localhost:7007/x",
])  # fmt: skip
def test_other_names_are_refused_even_with_a_cookie(host: str) -> None:
    assert status(hosts=[host], cookies=COOKIE) == 403
    assert status(hosts=[HOST[0], host], cookies=COOKIE) == 403, "two Host headers"


@pytest.mark.parametrize("host", ["127.0.0.1:7007", "LOCALHOST:9000", "[::1]:7007", "localhost"])
def test_names_of_this_machine_pass_at_any_port(host: str) -> None:
    """A forwarded port has another number on the other side."""
    assert status(hosts=[host], cookies=COOKIE) == 200
    assert status(hosts=[host], cookies=COOKIE, origins=[f"http://{host}"], is_websocket=True) == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:7008", "http://127.0.0.1:7007", ""]
)
def test_other_origins_are_refused_even_with_a_cookie(origin: str) -> None:
    assert status(cookies=COOKIE, origins=[origin], is_websocket=True) == 403


def test_an_open_server_takes_addresses_and_its_own_names_only() -> None:
    gate = Gate(b"s" * 32, 7007, "0.0.0.0", ["nerf.example"])  # noqa: S104
    cookies = [gate.cookie("owner")]
    for host in ("192.168.1.20:7007", f"{socket.gethostname()}:7007", "nerf.example", "[fe80::1]:7007"):
        assert status(gate, hosts=[host], cookies=cookies) == 200, host
    assert status(gate, hosts=["evil.example"], cookies=cookies) == 403


@pytest.fixture
def viewer():
    made = ViewerServer(ring_of_cameras(4), port=0)
    made.set_renderer(AzimuthRenderer())
    yield made
    made.close()


def ask(viewer: ViewerServer, path: str = "/", **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", viewer.port, timeout=5)
    connection.request("GET", path, headers=headers)
    return connection.getresponse()


def shake_hands(viewer: ViewerServer, **headers: str) -> int:
    try:
        with connect(f"ws://127.0.0.1:{viewer.port}", additional_headers=headers,
                     subprotocols=[f"viser-v{viser.__version__}"]):  # fmt: skip
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


def test_the_server_asks_the_gate_about_everything(viewer) -> None:
    cookie = cookie_from(viewer.link("watcher"))
    assert ask(viewer).status == 401
    assert ask(viewer, "/?token=wrong").status == 401
    page = ask(viewer, Cookie=cookie)
    assert page.status == 200 and page.getheader("X-Frame-Options") == "DENY"
    assert ask(viewer, Cookie=cookie, Host="evil.example").status == 403
    assert ask(viewer, "/../../etc/passwd", Cookie=cookie).status == 404
    own = f"http://127.0.0.1:{viewer.port}"
    assert shake_hands(viewer) == 401
    assert shake_hands(viewer, Cookie=cookie) == 101
    assert shake_hands(viewer, Cookie=cookie, Origin=own) == 101
    assert shake_hands(viewer, Cookie=cookie, Origin="http://evil.example") == 403
    assert shake_hands(viewer, Cookie="nsx=1") == 401
    with pytest.raises(PermissionError):
        cookie_from(viewer.url + "/?token=wrong")


def test_it_listens_on_this_machine_only_and_says_how_to_come_from_elsewhere(viewer) -> None:
    assert viewer.host == "127.0.0.1" and not viewer.is_open
    lines = link_lines(viewer)
    assert viewer.link("owner") in lines[0] and viewer.link("watcher") in lines[1]
    assert f"ssh -N -L {viewer.port}:127.0.0.1:{viewer.port} " in lines[2]
    handlers = viewer.room.server._websock_server._incoming_handlers
    assert _messages.ShareUrlRequest not in handlers


def test_hostile_visitors_harm_nobody(viewer) -> None:
    good = FakeBrowser(viewer.port)
    good.look((0.5, 2.0, 1.0))
    good.wait(1)
    for content in (b"\xc1garbage", msgspec.msgpack.encode({"type": "Nonsense"}), b"x" * (60 << 20)):
        bad = FakeBrowser(viewer.port)
        bad.connection.send(content)
        end = time.perf_counter() + 10
        while bad._thread.is_alive() and time.perf_counter() < end:
            time.sleep(0.02)
        assert not bad._thread.is_alive(), "the connection was closed"
    good.look((0.6, 2.0, 1.0), size=(10**9, 10**9))
    good.look((float("nan"), 2.0, 1.0), wxyz=(1.0, 0.0, 0.0, 0.0))
    n = good.quiet(0.3)
    good.look((0.7, 2.0, 1.0))
    assert abs(good.wait(n + 1).rgb[:, :, 0].mean() / 255 - 0.7) < 0.02
    good.close()


def test_controls_take_only_what_they_could_show(viewer) -> None:
    browser = FakeBrowser(viewer.port)
    browser.look((0.5, 2.0, 1.0))
    browser.wait(1)
    output, size = browser.control("Dropdown", "Output"), browser.control("Slider", "Max size")
    desk = next(iter(viewer._visitors.desks.values()))
    before = desk.look
    for uuid, updates in [
        (output, {"value": "secrets"}), (output, {"update_cb": []}), (output, {"value": ["rgb"]}),
        (size, {"value": 10**9}), (size, {"value": float("nan")}), (size, {"value": True}),
        (size, {"removed": True}), ("unknown", {"value": 1}), (size, {"value": 512, "disabled": True}),
    ]:  # fmt: skip
        browser.send("GuiUpdateMessage", uuid=uuid, updates=updates)
    browser.send("GuiUpdateMessage", uuid=size, updates={"value": 512})
    end = time.perf_counter() + 5
    while desk.look == before and time.perf_counter() < end:
        time.sleep(0.02)
    assert desk.look.max_side == 512 and desk.look.side == before.side
    browser.close()


def test_a_visitor_cannot_reach_the_controls_of_another(viewer) -> None:
    owner, watcher = FakeBrowser(viewer.port), FakeBrowser(viewer.port, "watcher")
    owner.look()
    watcher.look()
    render = owner.control("Button", "Render")
    watcher.control("Dropdown", "Output")
    buttons = {m["props"]["label"] for m in watcher.messages if m["type"] == "GuiButtonMessage"}
    assert not buttons & {"Render", "Capture PNG", "Reset training", "Make the scene metric"}
    watcher.send("GuiUpdateMessage", uuid=render, updates={"value": True})
    time.sleep(0.3)
    assert viewer.room.queue.jobs() == []
    owner.close()
    watcher.close()


def test_uploads_are_bounded_and_never_name_a_path(viewer, tmp_path) -> None:
    browser = FakeBrowser(viewer.port)
    browser.look()
    button = browser.control("UploadButton", "Open a file")
    content = b'{"keyframes": 1, "camera_path": []}'
    start = {"source_component_uuid": button, "filename": "../../evil.json", "mime_type": "application/json"}
    browser.send("FileTransferStartUpload", transfer_uuid="a", part_count=1, size_bytes=1 << 40, **start)
    browser.send("FileTransferPart", source_component_uuid=button, transfer_uuid="a", part_index=0, content=content)
    time.sleep(0.2)
    assert not any(m["type"] == "FileTransferPartAck" for m in browser.messages), "too large"
    browser.send("FileTransferStartUpload", transfer_uuid="b", part_count=1, size_bytes=len(content), **start)
    browser.send("FileTransferPart", source_component_uuid=button, transfer_uuid="b", part_index=0, content=content)
    notices = [
        browser.wait_message(lambda m, w=w: w in str(m.get("props"))) for w in ("at most 32 MB", "expected a list")
    ]
    assert all(n["type"] == "NotificationShowMessage" for n in notices), "told of both, and nothing was written"
    assert not list(viewer.room.folder.rglob("*evil*"))
    browser.close()


def test_upload_arithmetic() -> None:
    uploads = Uploads()
    assert uploads.may_start(10, 2, "a") and not uploads.may_start(10, 2, "a"), "once"
    assert not uploads.may_go_on(1, "b") and not uploads.may_go_on(11, "a")
    assert uploads.may_go_on(4, "a") and not uploads.may_go_on(7, "a") and uploads.may_go_on(6, "a")
    assert not uploads.may_go_on(0, "a"), "it is complete"
    assert not uploads.may_start(MAX_UPLOAD_BYTES + 1, 1, "c") and not uploads.may_start(-1, 1, "c")
    assert not uploads.may_start(1, 10**9, "c")
    assert uploads.may_start(1, 1, "d") and uploads.may_start(1, 1, "e") and not uploads.may_start(1, 1, "f")


def test_plain_values() -> None:
    assert all(map(is_plain_value, (1, 1.5, True, None, "x", [1, 2.0], (0.1, 0.2, 0.3))))
    assert not any(map(is_plain_value, (float("nan"), 2**60, "x" * 10**6, [1] * 100, {"a": 1}, [[[1]]], b"x")))

    class Number:
        disabled, visible, value, min, max = False, True, 0.5, 0.0, 1.0

    assert could_show(Number(), 1) and not could_show(Number(), 1.1) and not could_show(Number(), "1")
    Number.disabled = True
    assert not could_show(Number(), 0.5)


def test_the_number_of_browsers_is_limited(viewer) -> None:
    crowd = [FakeBrowser(viewer.port) for _ in range(MAX_CLIENTS)]
    with pytest.raises(InvalidStatus) as refused:
        FakeBrowser(viewer.port)
    assert refused.value.response.status_code == 503
    for browser in crowd:
        browser.close()


def test_the_secret_is_kept_private_and_the_same(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    first = viewer_secret()
    file = tmp_path / "nerfstudio-ext" / "viewer-secret"
    assert viewer_secret() == first == file.read_bytes()
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    file.chmod(0o644)
    assert viewer_secret() != first, "others could have read it"
    monkeypatch.setenv("XDG_STATE_HOME", str(file))
    assert len(viewer_secret()) == 32, "no place to keep one"
