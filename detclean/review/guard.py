"""Who may speak to the review app: this machine's browser, or whoever brings the token; and what its pages may load."""

from __future__ import annotations

import hmac
import ipaddress
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SAFE = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "x-frame-options": "DENY",
}
# Not a redirect: a browser that came from another site, a mail say, would follow it without a SameSite=Strict cookie
WELCOME = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url=/"><title>detclean</title><a href="/">review</a>'


@dataclass(frozen=True)
class Rules:
    """token: what a visitor must bring; None where only this machine is listened to. cookie: the name under which a browser keeps it.
    host: the address that is listened on, which is one of this machine's names."""

    token: str | None
    cookie: str
    host: str = "127.0.0.1"

    @property
    def names(self) -> tuple[str, ...]:
        """What a Host header may say where there is no token."""
        return (*LOCAL_NAMES, f"[{self.host}]" if ":" in self.host else self.host.lower())


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine can reach an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def guard(app: ASGIApp, rules: Rules) -> ASGIApp:
    """The app behind the rules: each request is refused or passed on, each response carries what browsers need to know."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SAFE.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refusal = judge(scope, rules)
        await (app if refusal is None else refusal)(scope, receive, send_safely)

    return guarded


def judge(scope: Any, rules: Rules) -> Response | None:
    """What a request gets instead of an answer; None where it may pass."""
    headers = Headers(scope=scope)
    host = headers.get("host", "")
    if rules.token is None and _name_of(host) not in rules.names:
        return PlainTextResponse("this host name is not served here; open the address that detclean printed", 403)
    if scope["method"] not in ("GET", "HEAD") and (problem := _find_foreign(headers, host)):
        return PlainTextResponse(problem, 403)
    if rules.token is None:
        return None
    offered = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[-1] if scope["path"] == "/" else ""
    if offered and _same(offered, rules.token):
        welcome = HTMLResponse(WELCOME)
        welcome.set_cookie(rules.cookie, rules.token, httponly=True, samesite="strict", path="/")
        return welcome
    if not _same(_read_cookie(headers.get("cookie", ""), rules.cookie), rules.token):
        return PlainTextResponse("this needs the token; open the address that detclean printed", 403)
    return None


def _find_foreign(headers: Headers, host: str) -> str | None:
    """Why a request that changes something may come from another site's page; None where it may not."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if origin is not None and _place_of(origin) != host.lower():
        return "this comes from another site"
    if site is not None and site not in ("same-origin", "none"):
        return "this comes from another site"
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return "this is not JSON"  # a form of another site's page can be sent without being asked, JSON cannot
    return None


def _place_of(origin: str) -> str | None:
    """Host and port of an Origin header; None where it is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _name_of(host: str) -> str:
    """A Host header without its port; a tunnel may have another."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()


def _read_cookie(text: str, name: str) -> str:
    try:
        found = SimpleCookie(text).get(name)
    except CookieError:
        return ""
    return "" if found is None else found.value


def _same(offered: str, token: str) -> bool:
    return hmac.compare_digest(offered.encode("utf-8", "surrogateescape"), token.encode())
