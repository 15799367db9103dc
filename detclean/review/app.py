"""The review app as a local web server: pages, pictures and decisions of one run, and nothing else of the disk."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from detclean.errors import ConfigError, DatasetError
from detclean.review.guard import Rules, guard, is_loopback
from detclean.review.pictures import read_picture
from detclean.review.queue import WANTED, read_filters
from detclean.review.screen import Screens
from detclean.review.session import Answer, KeptUnreadError, Session
from detclean.runfolder import Run
from detclean.show.words import TYPES

if TYPE_CHECKING:
    import uvicorn

PORT = 8377
PORTS_TRIED = 50
LONGEST_BODY = 1 << 16  # bytes, far above any decision
STATIC = Path(__file__).parent / "static"
MEDIA = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
PLAIN_ADDRESSES = {"/": "review.html", "/favicon.ico": "icon.svg"}  # of files in STATIC
PICTURE_HEADERS = {"cache-control": "private, max-age=86400, immutable"}  # their addresses differ from server to server

Say = Callable[[str], None]


def make_app(run: Run, rules: Rules) -> ASGIApp:
    """The web application of a run. Raises DatasetError where decisions.jsonl is damaged."""
    session = Session(run)
    screens = Screens(session)
    pages = {path.name: (path.read_bytes(), MEDIA[path.suffix]) for path in sorted(STATIC.iterdir()) if path.suffix in MEDIA}

    def page(request: Request) -> Response:
        name = request.path_params.get("name") or PLAIN_ADDRESSES[request.url.path]
        if name not in pages:
            return PlainTextResponse("not found", 404)
        content, media = pages[name]
        return Response(content, media_type=media, headers={"cache-control": "no-cache"})

    def picture(request: Request) -> Response:
        index = request.path_params["index"]
        path = run.dataset.images["path"][index] if index < run.dataset.image_count else None
        shown = None if path is None else read_picture(Path(path))
        if shown is None:
            return PlainTextResponse("picture not found", 404)
        if shown.path is not None:
            return FileResponse(shown.path, media_type=shown.media_type, headers=PICTURE_HEADERS)
        return Response(shown.content, media_type=shown.media_type, headers=PICTURE_HEADERS)

    def about(request: Request) -> Response:
        return as_json(
            {
                "name": str(run.summary.get("name", run.folder.name)),
                "folder": str(_shorten(run.folder)),
                "issues": len(session.names),
                "types": [(kind, TYPES[kind]) for kind in session.issues["issue_type"].unique(maintain_order=True).to_list()],
                "categories": run.dataset.categories,
                "states": list(WANTED),
            }
        )

    def queue(request: Request) -> Response:
        filters, since = read_filters(request.query_params), read_version(request)
        session.refresh()
        return as_json(session.queue(filters, since))

    def changes(request: Request) -> Response:
        filters, since = read_filters(request.query_params), read_version(request)
        session.refresh()
        return as_json(session.progress(filters, since or 0))

    def issue(request: Request) -> Response:
        position = request.path_params["position"]
        if position >= len(session.names):
            return as_json({"error": "no such issue"}, 404)
        session.refresh()
        return as_json(screens.describe(position))

    def change_with(work: Callable[[dict[str, Any]], Answer]) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint that reads a body, changes the decisions, and answers with the progress."""

        def change(request: Request, body: dict[str, Any]) -> Response:
            filters, since = read_filters(request.query_params), body.pop("version", 0)
            if not isinstance(since, int):
                raise ValueError("version: is no number")
            session.refresh()
            status, answer = work(body)
            return as_json(answer | session.progress(filters, since), status)

        async def endpoint(request: Request) -> Response:
            return await run_in_threadpool(change, request, await read_body(request))

        return endpoint

    routes = [
        Route("/", page),
        Route("/favicon.ico", page),
        Route("/static/{name}", page),
        Route("/image/{index:int}", picture),
        Route("/api/about", about),
        Route("/api/queue", queue),
        Route("/api/changes", changes),
        Route("/api/issue/{position:int}", issue),
        Route("/api/decide", change_with(session.decide), methods=["POST"]),
        Route("/api/box", change_with(session.add_box), methods=["POST"]),
        Route("/api/undo", change_with(session.undo), methods=["POST"]),
    ]
    handlers: Any = {ValueError: _refuse, DatasetError: _fail, OSError: _fail, KeptUnreadError: _warn}
    return guard(Starlette(routes=routes, exception_handlers=handlers), rules)


def read_version(request: Request) -> int | None:
    """How many decisions the window has seen; None where it says nothing. Raises ValueError."""
    text = request.query_params.get("since", "")
    if text and not (text.isascii() and text.isdecimal() and len(text) <= 12):
        raise ValueError("since: is no version")
    return int(text) if text else None


def as_json(content: dict[str, Any], status: int = 200) -> Response:
    """A response of plain data, arrays and dataclasses; what is no number becomes null."""
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), status, media_type="application/json")


async def read_body(request: Request) -> dict[str, Any]:
    """The JSON object that a window sent. Raises ValueError, and HTTPException where it is too long to be looked at."""
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > LONGEST_BODY:
            raise HTTPException(413, f"the request is longer than {LONGEST_BODY} bytes")
    try:
        body = orjson.loads(content)
    except ValueError:
        raise ValueError("the request is no JSON") from None
    if not isinstance(body, dict):
        raise ValueError("the request is no JSON object")
    return body


def _refuse(request: Request, error: Exception) -> Response:
    return as_json({"error": str(error)}, 400)


def _fail(request: Request, error: Exception) -> Response:
    """The decisions cannot be read or kept: the person must know, and the app goes on."""
    words = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.strerror else str(error)
    return as_json({"error": f"not kept: {words}" if request.method == "POST" else words}, 500)


def _warn(request: Request, error: Exception) -> Response:
    return as_json({"error": str(error)}, 500)


def make_server(
    run: Run, *, host: str = "127.0.0.1", port: int = PORT, token: str | None = None
) -> tuple[uvicorn.Server, socket.socket, str]:
    """A server that is ready to run on a socket, and the address to open. A token is made up where one is needed and none is given.

    port: the first to be tried; 0 takes any. Raises ConfigError where no port is free or the host is none of this machine's.
    """
    import uvicorn

    if token is None and not is_loopback(host):
        token = secrets.token_urlsafe(24)
    listener = open_socket(host, port)
    port = listener.getsockname()[1]
    app = make_app(run, Rules(token, f"detclean-{port}", host))
    config = uvicorn.Config(
        app,
        http="h11",
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, f"[{host}]" if ":" in host else host)
    return uvicorn.Server(config), listener, f"http://{shown}:{port}/" + (f"?token={token}" if token else "")


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket on the first free of PORTS_TRIED ports. Raises ConfigError."""
    if not 0 <= port < 1 << 16:
        raise ConfigError(f"--port {port}: is no port; name one from 1 to 65535, or 0 for any")
    try:
        family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
    except OSError as error:
        raise ConfigError(f"--host {host}: is no address of this machine ({error.strerror}); leave it out for 127.0.0.1") from None
    last: OSError | None = None
    for tried in [port + i for i in range(PORTS_TRIED) if port + i < 1 << 16] if port else [0]:
        # Said to be TCP, or asyncio does not turn Nagle's algorithm off, and every second answer waits 40 ms for an acknowledgement
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            if os.name != "nt":  # there it would let two servers share a port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, tried))
            listener.listen(64)
            return listener
        except OSError as error:
            listener.close()
            last = error
    raise ConfigError(f"--host {host} --port {port}: cannot be listened on ({last.strerror if last else ''}); name another")


def serve(
    run: Run, *, host: str = "127.0.0.1", port: int = PORT, token: str | None = None, open_browser: bool = True, say: Say = print
) -> None:
    """Serves the review of a run until it is stopped (Ctrl-C). say: gets the lines for the person.

    On another address than a loopback one only whoever brings the token is answered. Raises ConfigError and DatasetError.
    """
    server, listener, address = make_server(run, host=host, port=port, token=token)
    say(f"review of {run.issues.height} issues: {address}")
    if not is_loopback(host):
        say("whoever knows this address can see the pictures and decide; nothing of it is encrypted")
    say("every decision is kept at once; Ctrl-C ends, and the same command goes on from here")
    sys.stdout.flush()  # who reads them through a pipe waits for the address
    if open_browser and _has_screen():
        threading.Thread(target=_open_browser, args=(address,), daemon=True).start()
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:  # uvicorn hands it on after it has closed
        pass
    finally:
        listener.close()


def _has_screen() -> bool:
    """Whether a browser would open a window: without one some would take over the terminal."""
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _open_browser(address: str) -> None:
    import webbrowser

    webbrowser.open(address)


def _shorten(folder: Path) -> Path:
    """A folder as the person would type it."""
    here, full = Path.cwd(), folder.resolve()
    return full.relative_to(here) if full.is_relative_to(here) else full
