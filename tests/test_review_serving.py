"""The review app, asked by strangers, and the pictures that it serves."""

# ruff: noqa: F401, F811  fixtures are imported by name

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest
from PIL import Image
from reviewed import HERE, HOSTILE, client, decide, finished, folder, lines, open_client, open_reviewed, position_of, run, served
from starlette.testclient import TestClient

from detclean.errors import ConfigError
from detclean.review.app import make_app, make_server, open_socket
from detclean.review.guard import POLICY, Rules, is_loopback
from detclean.review.pictures import read_picture
from detclean.runfolder import Run

SHOWN = [
    ("a.jpg", "RGB", "JPEG", "image/jpeg"),
    ("a.png", "RGBA", "PNG", "image/png"),
    ("b.jpg", "RGB", "PNG", "image/png"),
    ("a.bmp", "RGB", "BMP", "image/bmp"),
    ("a.webp", "RGB", "WEBP", "image/webp"),
]
TURNED = [
    ("a.tif", "RGB", "TIFF"),
    ("c.jpg", "CMYK", "JPEG"),
    ("a.ppm", "RGB", "PPM"),
    ("d.tif", "I;16", "TIFF"),
    ("d.png", "I;16", "PNG"),
    ("f.tif", "F", "TIFF"),
]


@pytest.mark.parametrize(
    "path",
    [
        "/image/../../etc/passwd",
        "/image/%2e%2e/%2e%2e/etc/passwd",
        "/image/..%2f..%2fetc%2fpasswd",
        "/image//etc/passwd",
        "/image/%2fetc%2fpasswd",
        "/image/99999",
        "/image/-1",
        "/image/1e9",
        "/image/99999999999999999999999999",
        "/image/0.png",
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static/app.py",
        "/static//etc/passwd",
        "/decisions.jsonl",
        "/etc/passwd",
        "/api/issue/-1",
    ],
)
def test_nothing_else_of_the_disk_is_served(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_nothing_else_of_the_disk_is_served_to_who_does_not_tidy_the_path(run: Run) -> None:
    with served(run) as address:
        place = address.removeprefix("http://").rstrip("/")
        for path in ("/image/../../etc/passwd", "//etc/passwd", "/static/../app.py", "/image/%2e%2e/%2e%2e/etc/passwd", "/static/%00", "*"):
            connection = http.client.HTTPConnection(place, timeout=300)
            connection.request("GET", path)
            assert connection.getresponse().status in (400, 404), path
            connection.close()


def test_it_is_served_until_ctrl_c(run: Run) -> None:
    begin = "import sys; from detclean.review import serve; from detclean.runfolder import open_run"
    command = [sys.executable, "-c", f"{begin}; serve(open_run(sys.argv[1]), port=0, open_browser=False)", str(run.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        address = process.stdout.readline().split()[-1]
        with urllib.request.urlopen(address, timeout=300) as page:
            assert b"detclean review" in page.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(300) == 0
        assert process.stderr.read() == ""


def test_other_methods_are_refused(client: TestClient, run: Run) -> None:
    assert client.get("/api/decide").status_code == 405
    assert client.post("/image/0", json={}).status_code == 405
    assert client.request("TRACE", "/", headers={"content-type": "application/json"}).status_code == 405


def test_every_answer_says_what_a_page_may_do(client: TestClient, run: Run) -> None:
    for path in ("/", "/static/review.js", "/image/0", "/api/queue", "/nothing"):
        headers = client.get(path).headers
        assert headers["content-security-policy"] == POLICY
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "'unsafe" not in POLICY
    assert client.get("/api/queue").headers["cache-control"] == "no-store"
    assert client.get("/image/0").headers["cache-control"].startswith("private")
    assert client.get("/static/review.js").headers["content-type"].startswith("text/javascript")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "192.168.1.5"])
def test_another_host_name_is_refused_on_this_machine(client: TestClient, host: str) -> None:
    assert client.get("/api/queue", headers={"host": host}).status_code == 403


@pytest.mark.parametrize("host", ["localhost", "localhost:9000", "127.0.0.1:8377", "[::1]:8377", "LOCALHOST:1"])
def test_this_machines_own_names_are_served(client: TestClient, host: str) -> None:
    assert client.get("/api/queue", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    ("host", "name", "served_so"),
    [
        ("127.0.0.2", "127.0.0.2:8377", True),
        ("127.0.0.2", "127.0.0.3:8377", False),
        ("127.0.0.1", "127.0.0.2:8377", False),
        ("::1", "[::1]:8377", True),
    ],
)
def test_the_address_listened_on_is_a_name_of_this_machine(run: Run, host: str, name: str, served_so: bool) -> None:
    client = TestClient(make_app(run, Rules(None, "detclean-1", host)), base_url=HERE)
    assert client.get("/api/queue", headers={"host": name}).status_code == (200 if served_so else 403)


def test_another_loopback_address_can_be_listened_on(run: Run) -> None:
    with served(run, host="127.0.0.2") as address, urllib.request.urlopen(address, timeout=300) as page:
        assert b"detclean review" in page.read()


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://["},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
    ],
)
def test_another_sites_page_decides_nothing(client: TestClient, run: Run, headers: dict[str, str]) -> None:
    body = orjson.dumps({"issue": run.issues["issue_id"][0], "verdict": "accept", "seen": -1})
    own = {"content-type": "application/json", "origin": HERE, "sec-fetch-site": "same-origin"}
    assert client.post("/api/decide", content=body, headers=own | headers).status_code == 403
    assert lines(run.folder) == []
    assert client.post("/api/decide", content=body, headers=own).status_code == 200


def test_on_the_network_only_who_brings_the_token_is_answered(run: Run) -> None:
    client = open_client(run, token="s3cret", base="http://192.0.2.1:8377")
    for path in ("/", "/api/queue", "/image/0", "/static/review.js", "/?token=wrong", "/?token=", "/api/queue?token=s3cret"):
        answer = client.get(path)
        assert answer.status_code == 403, path
        assert "content-security-policy" in answer.headers
    assert decide(client, run.issues["issue_id"][0], "accept").status_code == 403
    welcome = client.get("/?token=s3cret")
    cookie = welcome.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert 'url=/"' in welcome.text  # on to a page without the token in its address
    assert client.get("/").status_code == client.get("/api/queue").status_code == 200
    assert decide(client, run.issues["issue_id"][0], "accept").status_code == 200
    stranger = open_client(run, token="s3cret", base="http://192.0.2.1:8377")
    for cookie in ("detclean-1=wrong", "detclean-1=", "other=s3cret", "detclean-1", "\xff=\xfe"):
        assert stranger.get("/", headers={"cookie": cookie.encode("latin-1")}).status_code == 403


def test_a_token_is_made_up_wherever_others_could_reach_the_server(run: Run) -> None:
    for host, needed in (("127.0.0.1", False), ("0.0.0.0", True)):
        _, listener, address = make_server(run, host=host, port=0)
        listener.close()
        assert ("token=" in address) == needed
        assert len(address.partition("token=")[2]) >= 20 or not needed
    assert [is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost", "0.0.0.0", "::", "10.0.0.1", "evil")] == [
        True, True, True, True, False, False, False, False,
    ]  # fmt: skip


def test_a_port_that_is_taken_is_passed_over() -> None:
    first = open_socket("127.0.0.1", 0)
    assert first.proto == socket.IPPROTO_TCP  # or answers wait 40 ms for acknowledgements
    port = first.getsockname()[1]
    second = open_socket("127.0.0.1", port)
    assert port < second.getsockname()[1] < port + 50
    first.close()
    second.close()
    with pytest.raises(ConfigError, match="--host"):
        open_socket("192.0.2.77", 0)
    with pytest.raises(ConfigError, match="no address"):
        open_socket("no such host", 0)


def test_names_are_data(run: Run) -> None:
    hostile = run.issues.with_columns(file_name=pl.lit(HOSTILE), category=pl.lit(HOSTILE), reason=pl.lit(HOSTILE))
    client = open_client(Run(run.folder, run.summary, run.dataset, hostile))
    screen = client.get("/api/issue/0")
    assert screen.headers["content-type"] == "application/json"
    assert screen.json()["file_name"] == HOSTILE
    assert HOSTILE not in client.get("/").text
    for path in (Path(__file__).parent.parent / "detclean" / "review" / "static").glob("*.js"):
        code = path.read_text(encoding="utf-8")
        assert not [word for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(") if word in code]
        assert len(code.splitlines()) <= 400


def test_a_run_without_pictures_can_be_reviewed(run: Run) -> None:
    images = run.dataset.images.with_columns(path=pl.lit(None, dtype=pl.String))
    dataset = run.dataset.__class__(**{**vars(run.dataset), "images": images})
    client = open_client(Run(run.folder, run.summary, dataset, run.issues))
    assert client.get("/api/issue/0").json()["picture"]["address"] is None
    assert client.get("/image/0").status_code == 404
    assert decide(client, run.issues["issue_id"][0], "accept").status_code == 200


def test_a_run_without_issues_can_be_opened(run: Run) -> None:
    client = open_client(Run(run.folder, run.summary, run.dataset, run.issues.clear()))
    queue = client.get("/api/queue?order=image").json()
    assert (queue["positions"], queue["counts"]["open"]) == ([], 0)


def save(path: Path, mode: str, kind: str, **more: Any) -> Path:
    pixels = {"I;16": np.arange(600, dtype=np.uint16).reshape(20, 30) + 3000, "F": np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30)}
    picture = Image.fromarray(pixels[mode]) if mode in pixels else Image.new(mode, (30, 20), 0)
    picture.save(path, kind, **more)
    return path


@pytest.mark.parametrize(("name", "mode", "kind", "media"), SHOWN)
def test_what_browsers_show_is_sent_as_it_is(tmp_path: Path, name: str, mode: str, kind: str, media: str) -> None:
    picture = read_picture(save(tmp_path / name, mode, kind))
    assert picture is not None
    assert (picture.path, picture.media_type) == (tmp_path / name, media)


@pytest.mark.parametrize(("name", "mode", "kind"), TURNED)
def test_what_browsers_do_not_show_is_turned_into_a_jpeg(tmp_path: Path, name: str, mode: str, kind: str) -> None:
    picture = read_picture(save(tmp_path / name, mode, kind))
    assert picture is not None
    (tmp_path / "shown").write_bytes(picture.content)
    with Image.open(tmp_path / "shown") as shown:
        assert (shown.format, shown.size) == ("JPEG", (30, 20))
        if mode in ("I;16", "F"):
            grey = np.asarray(shown.convert("L"))
            assert grey.min() < 10
            assert grey.max() > 245  # though only a small part of 16 bits is used


def test_a_picture_that_lies_on_its_side_is_sent_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    picture = read_picture(save(tmp_path / "a.jpg", "RGB", "JPEG", exif=exif))
    assert picture is not None
    (tmp_path / "shown.jpg").write_bytes(picture.content)
    with Image.open(tmp_path / "shown.jpg") as shown:
        assert shown.size == (20, 30)


def test_what_is_no_picture_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("<svg onload=alert(1)>")
    (tmp_path / "b.jpg").write_bytes(save(tmp_path / "c.tif", "RGB", "TIFF").read_bytes()[:20])
    assert [read_picture(tmp_path / name) for name in ("a.jpg", "b.jpg", "missing.jpg", ".")] == [None] * 4
