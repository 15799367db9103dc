# ruff: noqa: F401, F811  fixtures are imported by name
"""What a server meets whose visitors mean it ill, or all come at once: over real sockets, as a test client tidies up what it sends."""

import http.client
import resource
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest
from reviewed import finished, folder, lines, run, served

from detclean.review.app import LONGEST_BODY
from detclean.runfolder import Run

REQUESTS, AT_ONCE = 1000, 40
JSON = {"content-type": "application/json"}


@pytest.fixture
def place(run: Run) -> Iterator[tuple[str, int]]:
    with served(run) as address:
        parts = urlsplit(address)
        yield str(parts.hostname), int(parts.port or 0)


def ask(
    place: tuple[str, int], method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*place, timeout=300)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def send_raw(place: tuple[str, int], content: bytes) -> bytes:
    with socket.create_connection(place, timeout=300) as one:
        one.sendall(content)
        answer = b""
        while part := one.recv(1 << 16):
            answer += part
            if b"\r\n\r\n" in answer:
                break
    return answer


def make_box(image: int) -> bytes:
    return orjson.dumps({"image": image, "category": "red square", "xyxy": [1, 2, 20, 30]})


def test_a_thousand_requests_at_once_are_all_answered_and_no_decision_is_lost(run: Run, place: tuple[str, int]) -> None:
    def one(number: int) -> tuple[str, int]:
        if number % 4 == 0:
            return "box", ask(place, "POST", "/api/box", make_box(number % run.dataset.image_count), JSON)[0]
        path = ("/api/queue", "/api/issue/0", f"/image/{number % run.dataset.image_count}")[number % 4 - 1]
        return path[:7], ask(place, "GET", path)[0]

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = Counter(pool.map(one, range(REQUESTS)))
    assert {status for _, status in answers} == {200}
    assert sum(answers.values()) == REQUESTS
    kept = lines(run.folder)
    assert len(kept) == len({line["issue"] for line in kept}) == REQUESTS // 4
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10  # KiB


BODIES: dict[str, tuple[bytes, int]] = {
    "too long": (b'{"issue": "' + b"x" * LONGEST_BODY + b'"}', 413),
    "deep": (b"[" * 30_000 + b"]" * 30_000, 400),
    "deep object": (b'{"a":' * 8_000 + b"1" + b"}" * 8_000, 400),
    "cut": (b'{"issue": "a', 400),
    "no object": (b"[1, 2]", 400),
    "not UTF-8": (b'{"issue": "\xff\xfe"}', 400),
    "empty": (b"", 400),
    "NaN": (b'{"image": 0, "category": "red square", "xyxy": [NaN, 0, 1, 1]}', 400),
    "infinite": (b'{"image": 0, "category": "red square", "xyxy": [0, 0, 1e999, 1]}', 400),
    "a list for a name": (b'{"issue": ["a"], "verdict": "accept", "seen": -1}', 400),
    "an object for a number": (b'{"image": {}, "category": {}, "xyxy": {}}', 400),
    "a giant number": (b'{"image": ' + b"9" * 5000 + b"}", 400),
    "version": (b'{"version": "x"}', 400),
}


@pytest.mark.parametrize("path", ["/api/decide", "/api/box", "/api/undo"])
@pytest.mark.parametrize("case", BODIES)
def test_a_malformed_body_is_refused_and_keeps_nothing(run: Run, place: tuple[str, int], path: str, case: str) -> None:
    body, status = BODIES[case]
    answered, said = ask(place, "POST", path, body, JSON)
    assert answered == status, said
    assert b"Traceback" not in said
    assert lines(run.folder) == []
    assert ask(place, "GET", "/api/about")[0] == 200


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "application/jsonx"]
)
def test_a_form_of_another_page_decides_nothing(run: Run, place: tuple[str, int], kind: str) -> None:
    assert ask(place, "POST", "/api/box", make_box(0), {"content-type": kind})[0] == 403
    assert lines(run.folder) == []


def test_long_headers_and_addresses_are_refused_and_the_server_lives(place: tuple[str, int]) -> None:
    host = f"Host: {place[0]}:{place[1]}\r\n".encode()
    for content in (
        b"GET / HTTP/1.1\r\n" + host + b"X: " + b"x" * (1 << 20) + b"\r\n\r\n",
        b"GET /" + b"x" * (1 << 20) + b" HTTP/1.1\r\n" + host + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 nonsense \r\n\r\n",
        b"GET / HTTP/1.1\r\n" + host + b"Content-Length: -5\r\n\r\n",
    ):
        with suppress(ConnectionResetError, BrokenPipeError):  # hung up before all of it was sent
            assert b" 400 " in send_raw(place, content).split(b"\r\n")[0] + b" "
    assert ask(place, "GET", "/api/about")[0] == 200


def test_odd_addresses_are_answered(place: tuple[str, int]) -> None:
    many = "&".join(f"type=a{i}" for i in range(4000))
    found = {
        path: ask(place, "GET", path)[0]
        for path in (f"/api/queue?{many}", "/image/" + "9" * 5000, "/api/issue/" + "9" * 30, "/api/issue/-1")
    }
    assert all(status in (200, 400, 404) for status in found.values()), found
    assert ask(place, "GET", "/api/queue?since=" + "9" * 400)[0] == 400


def test_who_sends_slowly_or_nothing_keeps_nobody_waiting(run: Run, place: tuple[str, int]) -> None:
    head = (
        f"POST /api/box HTTP/1.1\r\nHost: {place[0]}:{place[1]}\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n".encode()
    )
    slow = [socket.create_connection(place, timeout=300) for _ in range(100)]
    try:
        for one in slow:
            one.sendall(head + b'{"image')
        assert ask(place, "POST", "/api/box", make_box(0), JSON)[0] == 200
        for one in slow:  # nobody has been turned away in the meantime: they are still waited for
            one.setblocking(False)
            with pytest.raises(BlockingIOError):
                one.recv(1)
    finally:
        for one in slow:
            one.close()
    assert len(lines(run.folder)) == 1


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "[::1].evil.example", "169.254.169.254", ""]
)
def test_a_name_that_leads_here_is_no_name_of_this_machine(place: tuple[str, int], host: str) -> None:
    """DNS rebinding: another site's name is made to lead to this machine."""
    for path in ("/", "/api/queue", "/image/0"):
        assert b" 403 " in send_raw(place, f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()).split(b"\r\n")[0]


@pytest.mark.parametrize(
    "path",
    ["/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py", "//etc/passwd", "/image/..%2f..%2fetc%2fpasswd", "/static/%00"],
)
def test_no_way_leads_out_of_what_is_served(place: tuple[str, int], path: str) -> None:
    answer = send_raw(place, f"GET {path} HTTP/1.1\r\nHost: {place[0]}:{place[1]}\r\nConnection: close\r\n\r\n".encode())
    assert b" 404 " in answer.split(b"\r\n")[0]
    assert b"import" not in answer
    assert b"root:" not in answer


def test_a_wrong_token_is_compared_in_constant_time_and_opens_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from detclean.review import guard

    compared: list[Any] = []
    real = guard.hmac.compare_digest
    monkeypatch.setattr(guard.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))
    with served(run, token="the right one") as address:
        parts = urlsplit(address)
        place = str(parts.hostname), int(parts.port or 0)
        cookie = f"detclean-{place[1]}"
        for token in ("", "the right on", "the right one ", "ü", "x" * 10_000):
            headers = {"cookie": f'{cookie}="{token}"'.encode().decode("latin-1")}
            assert ask(place, "GET", "/api/queue", headers=headers)[0] == 403
            assert ask(place, "POST", "/api/box", make_box(0), headers | JSON)[0] == 403
        assert ask(place, "GET", "/?token=wrong")[0] == 403
        assert ask(place, "GET", "/api/queue?token=the%20right%20one")[0] == 403  # only the first page takes it from the address
        assert ask(place, "GET", "/?token=the%20right%20one")[0] == 200
    assert len(compared) >= 10
    assert lines(run.folder) == []
