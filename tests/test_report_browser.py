"""report.html in a real browser: from disk, without a network, on a desk, on a phone, on paper."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import trained
from browser import SHOTS, open_page
from finished import finish_digits
from playwright.sync_api import Browser, Page, expect
from test_report_page import HOSTILE, made_up

from detclean.report import write_report
from detclean.report.hardest import gather_hardest
from detclean.runfolder import open_run

WIDE = "document.documentElement.scrollWidth - innerWidth"
SHOWN = "() => [...document.images].every(image => image.complete && image.naturalWidth > 0)"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def report(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    run = open_run(digits)
    named = {"name": "digits", "data": "data/digits/data.yaml"}  # the screenshots name nothing of this machine
    write_report(replace(run, summary=run.summary | named), path)
    return path


def show(browser: Browser, path: Path, width: int = 1280, height: int = 800) -> tuple[Page, list[str]]:
    page, wrong = open_page(browser, width, height)
    page.route("**/*", lambda route: route.continue_() if route.request.url.startswith(("file:", "data:")) else route.abort())
    page.goto(path.as_uri())
    page.wait_for_function(SHOWN)
    return page, wrong


def test_it_opens_from_disk_and_nothing_goes_wrong(browser: Browser, report: Path) -> None:
    page, wrong = show(browser, report)
    assert page.locator(".card").count() > 200
    assert page.locator(".card img").count() == page.locator(".card").count()
    assert page.locator(".plot svg").count() >= 5
    assert page.evaluate(WIDE) <= 0
    assert wrong == []
    if os.environ.get("DETCLEAN_PICTURES"):
        SHOTS.mkdir(exist_ok=True)
        page.set_viewport_size({"width": 1000, "height": 620})
        page.screenshot(path=SHOTS / "report.png")
        page.evaluate("document.querySelector('.tools').scrollIntoView()")
        page.wait_for_timeout(500)  # pictures are decoded beside the page
        page.screenshot(path=SHOTS / "report-worst.png")


def test_types_and_boxes_can_be_chosen_without_a_program(browser: Browser, report: Path) -> None:
    page, wrong = show(browser, report)
    total, swaps = page.locator(".card").count(), page.locator(".card.swap").count()
    assert 0 < swaps < total
    page.locator("label[for=only-swap]").click()
    assert page.locator(".card:visible").count() == swaps
    page.locator("label[for=only-all]").click()
    assert page.locator(".card:visible").count() == total
    boxes = page.locator(".card .pic svg").first
    expect(boxes).to_have_css("opacity", "1")
    page.locator("label[for=bare]").click()
    expect(boxes).to_have_css("opacity", "0")
    assert wrong == []


def test_it_reads_well_on_a_phone(browser: Browser, report: Path) -> None:
    page, wrong = show(browser, report, 390, 844)
    assert page.evaluate(WIDE) <= 0
    small = (
        "() => [...document.querySelectorAll('.plot svg text')].map(text => text.getBoundingClientRect().height).sort((a, b) => a - b)[0]"
    )
    assert page.evaluate(small) >= 8  # px: the smallest writing in a figure
    assert page.locator(".card").first.bounding_box()["width"] > 340  # type: ignore[index]
    assert wrong == []
    if os.environ.get("DETCLEAN_PICTURES"):
        SHOTS.mkdir(exist_ok=True)
        page.screenshot(path=SHOTS / "report-phone.png")


def test_it_prints(browser: Browser, report: Path, tmp_path: Path) -> None:
    page, wrong = show(browser, report)
    page.emulate_media(media="print")
    assert page.locator(".tools label").first.is_hidden()
    assert page.locator(".card").first.evaluate("element => getComputedStyle(element).breakInside") == "avoid"
    page.pdf(path=tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").stat().st_size > 500_000  # with the pictures
    assert wrong == []


def test_a_hostile_name_is_shown_as_text(browser: Browser, tmp_path: Path) -> None:
    run = made_up(tmp_path, 4, 4, 2)
    names = [pl.lit(HOSTILE).alias(name) for name in ("category", "suggested_category", "file_name", "reason", "source")]
    run.table("annotations").with_columns(category=pl.lit(HOSTILE)).write_parquet(run.folder / "annotations.parquet")
    run = replace(run, summary=run.summary | {"name": HOSTILE}, issues=run.issues.with_columns(names))
    write_report(run, tmp_path / "report.html")
    page, wrong = show(browser, tmp_path / "report.html")
    assert "<img src=x onerror=alert(1)>\"'&" in page.locator("h1, .run").first.inner_text()
    assert "<script>alert(2)</script>" in str(page.locator(".card .why").first.text_content())
    assert page.locator("script").count() == 0
    assert page.locator("img").count() == 4
    assert page.locator("img[onerror]").count() == 0
    assert page.evaluate(WIDE) <= 0
    assert wrong == []


# without a browser


@pytest.mark.trained
def test_the_report_holds_right_against_wrong(digits: Path) -> None:
    hardest = gather_hardest(open_run(digits))
    assert hardest is not None
    trained.expect("right detections", hardest.right, least=500)
    trained.expect("wrong detections", hardest.wrong, least=5)
    trained.expect("detections at planted errors", hardest.left_out, least=20)  # what is seen there is right, and the label is not
    assert all(plot.svg is not None for plot in hardest.plots)
    assert [len(shots) for shots in hardest.shots.values()] == [4, 4]
    for shot in (shot for shots in hardest.shots.values() for shot in shots):
        assert str(shot.picture).startswith("data:image/jpeg;base64,")
    assert all(shot.given is not None for shot in hardest.shots["right"])
    page = (digits / "report.html").read_text()
    assert 'id="hardest"' in page
    assert "The hardest wrong detections" in page
