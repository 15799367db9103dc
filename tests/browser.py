"""A real browser for tests: Debian's Chromium, headless, driven by Playwright. Without it these tests say so and are skipped."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run")
OFFLINE = ("--disable-background-networking", "--disable-component-update", "--disable-sync")
PATIENCE = 240_000  # ms: for what comes at once, but on a slow machine
expect.set_options(timeout=PATIENCE)
SHOTS = Path(__file__).parent.parent / "docs" / "pictures"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium. `make browser` installs it on Debian."""
    path = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("NO BROWSER: the report and the review app are NOT tested; install Debian's package chromium (make browser)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*QUIET, *OFFLINE])
        yield browser
        browser.close()


def open_page(browser: Browser, width: int = 1280, height: int = 800, **more: object) -> tuple[Page, list[str]]:
    """A page in a context of its own, and a list into which all that goes wrong in it will be written."""
    page = browser.new_context(viewport={"width": width, "height": height}, **more).new_page()
    page.set_default_timeout(PATIENCE)
    # Chromium lets requests through for a while after it was first told to hold some; so it is told before there are any.
    page.route("**/api/**", lambda route: route.continue_())
    wrong: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            wrong.append(f"{message.type}: {message.text}")

    page.on("console", note)
    page.on("pageerror", lambda error: wrong.append(f"exception: {error}"))
    page.on("requestfailed", lambda request: wrong.append(f"failed: {request.url}"))
    return page, wrong
