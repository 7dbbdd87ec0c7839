"""Who may talk to a page, and what every answer says."""

import asyncio
import json
import logging
import socket
from unittest import mock

import httpx
import pytest

from tests.serving.page.page_server import cookie_of, make_page, serving, viewer
from ultravid.serving.page.access import SECURITY_HEADERS, Access
from ultravid.serving.page.server import Protocol, SocketProtocol

TOKEN = "a-token-of-test"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with serving(make_page(tmp_path_factory.mktemp("page"), token=TOKEN)) as found:
        yield found


@pytest.mark.parametrize(
    ("bound", "host", "is_let_in"),
    [
        ("127.0.0.1", "127.0.0.1:8000", True),
        ("127.0.0.1", "localhost", True),
        ("127.0.0.1", "[::1]:8000", True),
        ("127.0.0.1", "rebound.example", False),
        ("127.0.0.1", "localhost.example", False),
        ("127.0.0.1", "192.168.1.5:8000", False),
        ("127.0.0.1", "", False),
        ("127.0.0.1", "[::1", False),
        ("127.0.0.1", "127.0.0.1@rebound.example", False),
        ("0.0.0.0", "192.168.1.5:8000", True),
        ("0.0.0.0", "rebound.example", False),
        ("0.0.0.0", "scans.example", True),
    ],
)
def test_only_names_of_this_server_are_hosts(bound, host, is_let_in):
    assert Access(bound, "token", ["scans.example"]).is_host(host) is is_let_in


def test_every_answer_has_the_security_headers(address):
    with httpx.Client(base_url=address, verify=False) as client:
        answers = [client.get(path) for path in ("/", "/app.js", "/app.css", "/nothing", "/api/recordings")]
        answers.append(client.get("/", headers={"Host": "rebound.example"}))
        answers.append(client.get("/", headers={"Origin": "http://["}))
    assert [answer.status_code for answer in answers] == [200, 200, 200, 404, 401, 403, 403]
    for answer in answers:
        assert {name: answer.headers.get(name) for name in SECURITY_HEADERS} == SECURITY_HEADERS
        assert "server" not in answer.headers
    with socket.create_connection(("127.0.0.1", httpx.URL(address).port), 5) as connection:
        connection.sendall(b"not HTTP\r\n\r\n")
        assert b"HTTP/1.1 400" in (answer := connection.recv(4000)) and b"content-security-policy" in answer
    policy = SECURITY_HEADERS["content-security-policy"]
    assert "unsafe" not in policy and "default-src 'none'" in policy
    for inline in ("style=", "<script>", "onclick", "http:", "https:"):
        assert inline not in answers[0].text


def test_without_the_token_there_is_no_session(address):
    with httpx.Client(base_url=address, verify=False) as client:
        for header in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": TOKEN},
            {"Cookie": f"ultravid_viewer_{httpx.URL(address).port}=x"},
        ):
            answer = client.post("/api/viewer", headers=header)
            assert answer.status_code == 401 and TOKEN not in answer.text
        assert not client.cookies
        answer = client.post("/api/viewer", headers={"Authorization": f"Bearer {TOKEN}"})
        again = client.post(
            "/api/viewer"
        )  # as after an interruption: the page learns whether its recordings are still there
    assert answer.json()["is_new"] and again.status_code == 200 and not again.json()["is_new"]
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and TOKEN not in cookie


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Host": "rebound.example"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    ],
    ids=str,
)
def test_requests_of_other_origins_are_refused(address, headers):
    with viewer(address, TOKEN) as client:
        assert client.get("/api/recordings", headers=headers).status_code == 403
        assert client.post("/api/recordings", content=b"x", headers=headers).status_code == 403
        assert client.get("/api/recordings", headers={"Origin": address}).status_code == 200


def test_websockets_of_other_origins_and_without_session_are_refused(address, caplog):
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    with viewer(address, TOKEN) as client:
        url, own = address.replace("http", "ws"), cookie_of(client)
        for path, headers, origin in [
            ("/api/live", own, "https://elsewhere.example"),
            ("/api/camera", own, "null"),
            ("/api/live", {}, address),
            ("/api/camera", {"Cookie": f"ultravid_viewer_{httpx.URL(address).port}=wrong"}, address),
        ]:
            with pytest.raises(InvalidStatus) as found, connect(url + path, additional_headers=headers, origin=origin):
                pass
            assert found.value.response.status_code == 403
            assert SECURITY_HEADERS.items() <= {k.lower(): v for k, v in found.value.response.headers.items()}.items()
        with connect(url + "/api/live", additional_headers=own, origin=address) as socket:
            assert json.loads(socket.recv(5)) == {"type": "recordings", "recordings": []}
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    "path",
    [
        *("/../bounds.py", "/%2e%2e/bounds.py", "/..%2fbounds.py", "/static/../../etc/passwd", "//etc/passwd"),
        "/api/recordings/..%2f..%2fetc%2fpasswd/pictures?first=0",
    ],
)
def test_no_path_of_a_request_is_opened(address, path):
    with viewer(address, TOKEN) as client:
        extensions = {"target": path.encode()}
        answer = client.send(httpx.Request("GET", address + "/", headers=cookie_of(client), extensions=extensions))
        assert answer.status_code == 404 and "class" not in answer.text and "root:" not in answer.text


def test_a_request_whose_head_does_not_come_to_its_end_is_closed(address, monkeypatch):
    monkeypatch.setattr(Protocol, "max_head_s", 0.3)
    where = ("127.0.0.1", httpx.URL(address).port)
    with socket.create_connection(where, 5) as silent, socket.create_connection(where, 5) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
        assert slow.recv(1) == silent.recv(1) == b""


@pytest.mark.parametrize("kind", [Protocol, SocketProtocol])
def test_a_client_that_does_not_read_what_it_is_sent_is_dropped(kind):
    class Connection(kind):
        max_unread_s = 0.02

        def __init__(self):
            self.transport, self.flow, self.writable = mock.Mock(), mock.Mock(), mock.Mock()

    async def abortions():
        connection = Connection()
        connection.pause_writing()
        connection.resume_writing()
        await asyncio.sleep(0.06)
        before = connection.transport.abort.call_count
        connection.pause_writing()
        await asyncio.sleep(0.06)
        return before, connection.transport.abort.call_count

    assert asyncio.run(abortions()) == (0, 1)


def test_pages_of_one_machine_do_not_take_each_others_viewers(address, tmp_path):
    with serving(make_page(tmp_path)) as other, viewer(address, TOKEN) as client:
        assert (
            client.post(f"{other}/api/viewer").status_code == 200
        )  # a browser sends the cookies of a host to all its ports
        assert client.get("/api/recordings").status_code == client.get(f"{other}/api/recordings").status_code == 200
