"""The review as a person does it, in a real browser: by keyboard, by mouse, with undo, a reload, two windows and hostile names."""

# ruff: noqa: F401, F811  fixtures are imported by name

from __future__ import annotations

import os
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import polars as pl
import pytest
from browser import SHOTS, open_page
from finished import finish_digits
from PIL import Image
from playwright.sync_api import Browser, expect
from reviewed import (
    HOSTILE,
    MISSING,
    SHOWN,
    address,
    drag,
    finished,
    folder,
    go,
    lines,
    open_reviewed,
    position_of,
    press,
    run,
    served,
    shown,
)

from detclean.edit.decisions import read_decisions
from detclean.runfolder import Run, open_run

WORST_CATEGORY = f"{HOSTILE}<script>alert(2)</script>"


def test_a_whole_review_by_keyboard(browser: Browser, run: Run, address: str) -> None:
    page, wrong = open_page(browser)
    go(page, address)
    expect(page.locator("#count")).to_have_text(f"0 of {run.issues.height} decided")
    keys = {"overlooked": "d", "duplicate": "h", "spurious": "Enter"}
    expected = {"d": "reject", "h": "hard", "Enter": "accept", "a": "accept"}
    for row in run.issues.iter_rows(named=True):
        assert shown(page) == str(row["rank"] - 1)
        expect(page.locator("#reason")).to_have_text(row["reason"])
        if row["action"] == "review":
            page.keyboard.press("a")
            expect(page.locator("#hint")).to_contain_text("Nothing is proposed here")
            page.keyboard.press("c")
            page.locator("#search").type("blue")
            page.keyboard.press("Enter")
            expect(page.locator("#proposal")).to_contain_text("'blue square'")
        press(page, keys.get(row["issue_type"], "a"))
        kept = lines(run.folder)[-1]
        assert (kept["issue"], kept["verdict"]) == (row["issue_id"], expected[keys.get(row["issue_type"], "a")])
    assert shown(page) == "end"
    expect(page.locator("#endtitle")).to_have_text("All issues are decided")
    expect(page.locator("#endcommand")).to_contain_text("python -m detclean apply")
    assert len(lines(run.folder)) == run.issues.height
    assert wrong == []


def test_a_review_by_mouse(browser: Browser, run: Run, address: str) -> None:
    page, wrong = open_page(browser)
    go(page, f"{address}#type=overlooked")
    x1, y1, x2, y2 = MISSING
    drag(page, (x2, y2), (x2 + 5, y2 + 6))
    expect(page.locator("#accepting")).to_contain_text("as you made it")
    page.click("[data-do=category]")
    page.locator("#options li", has_text="green circle").click()
    page.click("[data-do=add]")
    drag(page, (34, 30), (52, 47))
    page.locator("#options li", has_text="red square").click()
    expect(page.locator("#added li")).to_contain_text("added: red square")
    page.click("[data-do=accept]")
    expect(page.locator("#end")).to_be_visible()
    added, accepted = lines(run.folder)
    assert added["issue"].startswith("box-")
    assert (added["category"], added["image_id"], added["annotation_id"]) == ("red square", accepted["image_id"], None)
    assert added["xyxy"] == pytest.approx([34, 30, 52, 47], abs=0.3)
    assert (accepted["verdict"], accepted["category"]) == ("accept", "green circle")
    assert accepted["xyxy"] == pytest.approx([x1, y1, x2 + 5, y2 + 6], abs=0.3)
    page.click("#end [data-do=undo]")
    expect(page.locator("#end")).to_be_hidden()
    page.click("#added button")
    expect(page.locator("#added li")).to_have_count(0)
    assert read_decisions(run.folder) == {}
    assert wrong == []


def test_the_wheel_zooms_at_the_pointer_and_dragging_moves_the_picture(browser: Browser, run: Run, address: str) -> None:
    page, wrong = open_page(browser)
    go(page, address)
    page.mouse.move(300, 300)
    before = page.locator("#canvas").get_attribute("data-view")
    page.mouse.wheel(0, -300)
    page.wait_for_function("old => document.getElementById('canvas').dataset.view !== old", arg=before)
    assert before is not None
    scale, left, top = (float(value) for value in before.split())
    zoomed = page.locator("#canvas").get_attribute("data-view")
    assert zoomed is not None
    near, x, y = (float(value) for value in zoomed.split())
    place = page.locator("#canvas").bounding_box()
    assert place is not None
    assert near > scale * 1.3
    assert (300 - place["x"]) / near + x == pytest.approx((300 - place["x"]) / scale + left)
    assert (300 - place["y"]) / near + y == pytest.approx((300 - place["y"]) / scale + top)
    page.mouse.down()
    page.mouse.move(380, 300)
    page.mouse.up()
    page.wait_for_function("old => document.getElementById('canvas').dataset.view !== old", arg=zoomed)
    moved = float(page.locator("#canvas").get_attribute("data-view").split()[1])  # type: ignore[union-attr]
    assert moved == pytest.approx(x - 80 / near)
    assert lines(run.folder) == []
    assert wrong == []


def test_undo_goes_back_step_by_step_and_reaches_behind_a_reload(browser: Browser, run: Run, address: str) -> None:
    page, wrong = open_page(browser)
    go(page, address)
    for key in "arh":
        press(page, key)
    page.wait_for_load_state("networkidle")  # or what is fetched ahead counts as failed
    page.reload()
    page.wait_for_function(SHOWN, arg=None)
    assert shown(page) == "3"  # goes on where it was
    expect(page.locator("#count")).to_have_text(f"3 of {run.issues.height} decided")
    press(page, "u")
    assert shown(page) == "2"
    press(page, "Control+z")
    assert shown(page) == "1"
    assert [line["verdict"] for line in lines(run.folder)] == ["accept", "reject", "hard", "open", "open"]
    press(page, "a")
    assert shown(page) == "2"
    assert read_decisions(run.folder)[run.issues["issue_id"][1]].verdict == "accept"
    for _ in range(2):
        press(page, "u")
    page.keyboard.press("u")
    expect(page.locator("#hint")).to_contain_text("nothing of this window to undo")
    assert read_decisions(run.folder) == {}
    assert wrong == []


def test_two_windows_see_each_others_work_and_ask_before_they_overrule(browser: Browser, run: Run, folder: Path, address: str) -> None:
    with served(open_reviewed(folder)) as other_address:  # another process, as far as the file can tell
        one, wrong_one = open_page(browser)
        two, wrong_two = open_page(browser)
        go(one, address)
        go(two, other_address)
        press(one, "a")
        two.keyboard.press("r")
        expect(two.locator("#alert")).to_contain_text("Another window decided: accepted.")
        assert [line["verdict"] for line in lines(folder)] == ["accept"]
        press(two, "r")
        assert [line["verdict"] for line in lines(folder)] == ["accept", "reject"]
        press(two, "h")
        one.wait_for_function("() => document.getElementById('count').textContent.startsWith('2 of')")  # it asks every few seconds
        expect(one.locator("#alert")).to_contain_text("Another window decided: hard.")
        one.keyboard.press("a")
        expect(one.locator("#alert")).to_contain_text("again to overrule")
        press(one, "a")
        assert [line["verdict"] for line in lines(folder)] == ["accept", "reject", "hard", "accept"]
    assert len(wrong_one) == 1
    assert "409" in wrong_one[0]  # browsers write that down by themselves
    assert len(wrong_two) == 1
    assert "409" in wrong_two[0]


def test_filters_stay_in_the_address_and_the_last_of_them_ends_in_words(browser: Browser, run: Run, address: str) -> None:
    page, wrong = open_page(browser)
    go(page, address)
    before = shown(page)
    page.select_option("[name=type]", "overlooked")
    if before != str(position_of(run, "overlooked")):
        page.wait_for_function(SHOWN, arg=before)
    assert page.url.endswith("#type=overlooked")
    press(page, "s")
    expect(page.locator("#endtitle")).to_have_text("That was the last of this list")
    page.click("[data-do=skipped]")
    expect(page.locator("#end")).to_be_hidden()
    assert "state=skipped" in page.url
    press(page, "a")
    page.click("[data-do=everything]")
    expect(page.locator("#end")).to_be_hidden()
    expect(page.locator("#count")).to_contain_text(f"1 of {run.issues.height}")
    page.fill("[name=image]", "nowhere")
    expect(page.locator("#endtitle")).to_have_text("No issue matches these filters")
    assert lines(run.folder)[-1]["verdict"] == "accept"
    assert wrong == []


def test_hostile_names_are_only_words(browser: Browser, run: Run) -> None:
    said: list[str] = []
    categories = (WORST_CATEGORY, *run.dataset.categories[1:])
    dataset = replace(run.dataset, categories=categories)
    hostile = run.issues.with_columns(
        *(pl.lit(WORST_CATEGORY).alias(name) for name in ("file_name", "reason", "source", "category", "suggested_category"))
    )
    with served(replace(run, dataset=dataset, issues=hostile, summary=run.summary | {"name": HOSTILE})) as url:
        page, wrong = open_page(browser)
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        go(page, url)
        expect(page.locator("#facts")).to_contain_text(WORST_CATEGORY)
        expect(page.locator("#name")).to_have_text(HOSTILE)
        page.keyboard.press("c")
        expect(page.locator("#options")).to_contain_text(WORST_CATEGORY)
        page.keyboard.press("1")
        expect(page.locator("#proposal")).to_contain_text(WORST_CATEGORY)
        assert page.locator("#panel img, #panel script, #options img, #bar img").count() == 0
    assert said == []
    assert wrong == []


def test_without_the_picture_the_boxes_are_shown_and_decided(browser: Browser, run: Run) -> None:
    images = run.dataset.images.with_columns(path=pl.lit(None, dtype=pl.String))
    with served(replace(run, dataset=replace(run.dataset, images=images))) as url:
        page, wrong = open_page(browser, 800, 600)
        go(page, url)
        expect(page.locator("#lost")).to_have_text("picture not found")
        press(page, "a")
    assert lines(run.folder)[0]["verdict"] == "accept"
    assert wrong == []


def test_on_the_network_the_token_opens_and_leaves_the_address(browser: Browser, run: Run) -> None:
    with served(run, token="s3cret") as url:
        page, wrong = open_page(browser)
        go(page, url)
        assert page.url.endswith("/")
        press(page, "a")
        assert lines(run.folder)[0]["verdict"] == "accept"
        stranger, _ = open_page(browser)
        answer = stranger.goto(url.partition("?")[0])
        assert answer is not None
        assert answer.status == 403
    assert [line for line in wrong if "favicon" not in line] == []  # of the page that leads on


def test_a_server_that_is_gone_is_said_and_nothing_is_taken_for_kept(browser: Browser, run: Run) -> None:
    page, _ = open_page(browser)
    with served(run) as url:
        go(page, url)
    page.keyboard.press("a")
    expect(page.locator("#alert")).to_contain_text("The server does not answer")
    assert shown(page) == "0"
    assert lines(run.folder) == []


def keep_small(shot: Image.Image) -> Image.Image:
    """A screenshot in 256 colours, of which the panel has its own share: the photograph would take them all."""
    colours: list[int] = []
    for part, count in (((0, 60, 940, 760), 192), ((945, 0, 1280, 800), 64)):
        colours += (shot.crop(part).quantize(count).getpalette() or [])[: 3 * count]
    both = Image.new("P", (1, 1))
    both.putpalette(colours)
    return shot.quantize(palette=both, dither=Image.Dither.NONE)


@pytest.mark.skipif(not os.environ.get("DETCLEAN_PICTURES"), reason="DETCLEAN_PICTURES=1 draws docs/pictures/review.png anew")
def test_the_picture_for_the_readme(browser: Browser, tmp_path: Path) -> None:
    run = open_run(finish_digits(tmp_path))
    with served(replace(run, summary=run.summary | {"name": "digits"})) as url:
        page, wrong = open_page(browser)
        go(page, f"{url}#type=swap&image=0013")
        page.wait_for_timeout(200)
        shot = Image.open(BytesIO(page.screenshot())).convert("RGB")
    SHOTS.mkdir(parents=True, exist_ok=True)
    keep_small(shot).save(SHOTS / "review.png", optimize=True)
    assert (SHOTS / "review.png").stat().st_size < 300_000
    assert wrong == []
