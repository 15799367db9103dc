"""A finished run with an issue of every kind that a review can meet, a server for it, and hands for its page."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
from finished import share_run
from playwright.sync_api import Page
from starlette.testclient import TestClient

from detclean.review.app import make_app, make_server
from detclean.review.guard import Rules
from detclean.runfolder import Run, identify_issues, open_run

OVERLOOKED_IN = 13  # the image of the planted duplicate, so that one image has two issues
HERE = "http://127.0.0.1"
HOSTILE = "<img src=x onerror=alert(1)>"
SHOWN = "before => document.body.dataset.shown !== undefined && document.body.dataset.shown !== before"
MISSING = (2.5, 3.0, 22.0, 25.25)


def open_reviewed(folder: Path) -> Run:
    """The run that `finish_run` made, whose issues depend a little on chance, with two more: an overlooked object, and one to look at."""
    run = open_run(folder)
    image = run.dataset.images.row(OVERLOOKED_IN, named=True)
    unclear = next(i for i, index in enumerate(run.dataset.annotations.image_index.tolist()) if index == 2)
    own: Any = run.dataset.annotations.annotation_id
    sides = ("x1", "y1", "x2", "y2")
    overlooked = {
        "issue_type": "overlooked", "probability": 0.45, "verdict": "hard", "action": "add", "image_id": image["image_id"],
        "file_name": image["file_name"], "suggested_category": "blue square", "detector_score": 0.62, "image_index": OVERLOOKED_IN,
        "reason": "The detector sees a 'blue square' here (confidence 0.62) where nothing is annotated.",
        **{f"suggested_{side}": value for side, value in zip(sides, MISSING, strict=True)},
    }  # fmt: skip
    place = run.dataset.images.row(2, named=True)
    look = {
        "issue_type": "swap", "probability": 0.4, "verdict": "hard", "action": "review", "image_id": place["image_id"],
        "file_name": place["file_name"], "annotation": unclear, "annotation_id": own[unclear].item(), "image_index": 2, "votes": 1,
        "category": run.dataset.categories[int(run.dataset.annotations.category[unclear])], "reason": "The detector sees no such thing.",
        **dict(zip(sides, run.dataset.annotations.xyxy[unclear].tolist(), strict=True)),
    }  # fmt: skip
    issues = run.issues.filter(pl.col("image_index") != 2).drop("issue_id")
    more = pl.DataFrame(
        [overlooked, look], schema_overrides={name: kind for name, kind in issues.schema.items() if name in overlooked | look}
    )
    issues = pl.concat([issues, more], how="diagonal_relaxed").sort("probability", descending=True)
    issues = issues.with_columns(rank=pl.int_range(1, issues.height + 1, dtype=pl.Int64))
    return replace(run, issues=issues.with_columns(issue_id=identify_issues(issues)))


@contextmanager
def served(run: Run, **more: Any) -> Iterator[str]:
    """The address of a server that runs until the block ends."""
    server, listener, address = make_server(run, port=0, **more)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield address
    finally:
        server.should_exit = True
        thread.join(300)
        listener.close()
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return share_run(tmp_path_factory)


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "done"))


@pytest.fixture
def run(folder: Path) -> Run:
    return open_reviewed(folder)


@pytest.fixture
def client(run: Run) -> TestClient:
    return open_client(run)


def open_client(run: Run, token: str | None = None, base: str = HERE) -> TestClient:
    return TestClient(make_app(run, Rules(token, "detclean-1")), base_url=base, raise_server_exceptions=False)


def decide(client: TestClient, issue: str, verdict: str, **more: object) -> Any:
    return client.post("/api/decide", json={"issue": issue, "verdict": verdict, "seen": -1} | more)


def lines(folder: Path) -> list[dict[str, Any]]:
    path = folder / "decisions.jsonl"
    return [orjson.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def position_of(run: Run, kind: str) -> int:
    return run.issues["issue_type"].to_list().index(kind)


@pytest.fixture
def address(run: Run) -> Iterator[str]:
    with served(run) as url:
        yield url


def go(page: Page, address: str) -> None:
    page.goto(address)
    page.wait_for_function(SHOWN, arg=None)


def shown(page: Page) -> str:
    return str(page.evaluate("document.body.dataset.shown"))


def press(page: Page, key: str) -> None:
    """A key that leads to another screen."""
    before = shown(page)
    page.keyboard.press(key)
    page.wait_for_function(SHOWN, arg=before)


def on_screen(page: Page, x: float, y: float) -> tuple[float, float]:
    """Where a pixel of the picture is on the page."""
    scale, left, top = (float(value) for value in page.locator("#canvas").get_attribute("data-view").split())  # type: ignore[union-attr]
    place = page.locator("#canvas").bounding_box()
    assert place is not None
    return place["x"] + (x - left) * scale, place["y"] + (y - top) * scale


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    page.mouse.move(*on_screen(page, *start))
    page.mouse.down()
    middle = [(a + b) / 2 for a, b in zip(start, end, strict=True)]
    page.mouse.move(*on_screen(page, *middle))
    page.mouse.move(*on_screen(page, *end))
    page.mouse.up()
