"""The review under hasty hands and bad luck: what was never seen is never decided, and what failed is never taken for done."""

# ruff: noqa: F401, F811  fixtures are imported by name

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from browser import open_page
from playwright.sync_api import Browser, Page, Route, expect
from reviewed import SHOWN, address, finished, folder, go, lines, on_screen, position_of, press, run, served, shown

from detclean.edit.decisions import Decision, DecisionLog
from detclean.runfolder import Run
from detclean.show.words import TYPES

FULL: dict[str, Any] = {"status": 500, "content_type": "application/json", "body": '{"error": "not kept: No space left on device"}'}


def press_at_once(page: Page, *keys: str) -> None:
    """Keys pressed before the page can answer the first of them."""
    page.evaluate("keys => keys.forEach((key) => document.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true })))", list(keys))


def hold(page: Page, pattern: str) -> list[Route]:
    """Requests that are not answered, until somebody does it."""
    held: list[Route] = []

    def keep(route: Route) -> None:
        held.append(route)

    page.route(pattern, keep)
    return held


def let_go(page: Page, pattern: str, held: list[Route], **answer: Any) -> None:
    """answer: of the server; its own where none is given."""
    for route in held:
        route.fulfill(**answer) if answer else route.continue_()
    page.unroute(pattern)


def wait_for(page: Page, held: list[Route]) -> None:
    while not held:
        page.wait_for_timeout(20)


def verdicts(run: Run) -> list[tuple[str, str]]:
    return [(line["issue"], line["verdict"]) for line in lines(run.folder)]


def test_keys_pressed_faster_than_screens_come_decide_nothing_unseen_and_nothing_twice(browser: Browser, run: Run, address: str) -> None:
    page, wrong = open_page(browser)
    go(page, address)
    held = hold(page, "**/api/decide*")
    for key in "rrhs":
        page.keyboard.press(key)
    wait_for(page, held)
    let_go(page, "**/api/decide*", held)
    page.wait_for_function("() => document.body.dataset.shown === '1'")
    expect(page.locator("#hint")).to_contain_text("came before this was shown")
    names = run.issues["issue_id"].to_list()
    assert verdicts(run) == [(names[0], "reject")]
    for key in "rhs":
        press(page, key)
    assert verdicts(run) == list(zip(names, ("reject", "reject", "hard", "skip"), strict=False))
    before = shown(page)
    for _ in range(6):
        page.keyboard.down("r")  # held: the browser repeats it
    page.keyboard.up("r")
    page.wait_for_function(SHOWN, arg=before)
    page.wait_for_timeout(150)
    assert len(lines(run.folder)) == 5
    assert wrong == []


def test_a_key_pressed_while_the_page_asks_for_news_is_not_lost(browser: Browser, run: Run, address: str) -> None:
    page, wrong = open_page(browser)
    go(page, address)
    held = hold(page, "**/api/changes*")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    wait_for(page, held)
    page.keyboard.press("r")
    page.wait_for_timeout(50)
    assert lines(run.folder) == []
    let_go(page, "**/api/changes*", held)
    page.wait_for_function("() => document.body.dataset.shown === '1'")
    assert verdicts(run) == [(run.issues["issue_id"][0], "reject")]
    assert wrong == []


def test_while_a_picture_loads_nothing_is_decided(browser: Browser, run: Run, address: str) -> None:
    assert run.issues["image_index"][0] != run.issues["image_index"][1]
    page, wrong = open_page(browser)
    first, later = f"**/image/{run.issues['image_index'][0]}?*", "**/image/*"
    held = hold(page, later)
    page.route(first, lambda route: route.continue_())
    go(page, address)
    expect(page.locator("#loading")).to_be_hidden()
    page.keyboard.press("r")
    expect(page.locator("#loading")).to_be_visible()
    for key in ("r", "2", "d"):
        page.keyboard.press(key)
    assert shown(page) == "0"
    let_go(page, later, held)
    page.wait_for_function("() => document.body.dataset.shown === '1'")
    expect(page.locator("#loading")).to_be_hidden()
    expect(page.locator("#hint")).to_contain_text("came before this was shown")
    expect(page.locator("#accepting")).not_to_contain_text("as you made it")
    assert verdicts(run) == [(run.issues["issue_id"][0], "reject")]
    press(page, "r")
    assert len(lines(run.folder)) == 2
    assert wrong == []


def test_what_was_pressed_behind_a_failed_decision_is_not_done(browser: Browser, run: Run, address: str) -> None:
    page, _ = open_page(browser)
    go(page, address)
    held = hold(page, "**/api/decide*")
    press_at_once(page, "a", "r", "n", "u")
    wait_for(page, held)
    page.select_option("[name=type]", run.issues["issue_type"][0])  # a filter is done, and leaves the words where they are
    let_go(page, "**/api/decide*", held, **FULL)
    expect(page.locator("#alert")).to_contain_text("not kept: No space left")
    expect(page.locator("#hint")).to_contain_text("was not done")
    page.wait_for_load_state("networkidle")
    expect(page.locator("#alert")).to_be_visible()
    assert (shown(page), lines(run.folder)) == ("0", [])
    press(page, "a")
    assert verdicts(run) == [(run.issues["issue_id"][0], "accept")]
    expect(page.locator("#alert")).to_be_hidden()


def test_a_question_is_not_answered_by_a_key_pressed_before_it(browser: Browser, run: Run, address: str) -> None:
    page, _ = open_page(browser)
    go(page, address)
    row = run.issues.row(0, named=True)
    DecisionLog(run.folder).append([Decision(row["issue_id"], "reject", row["image_id"], row["annotation_id"])])
    press_at_once(page, "a", "a")
    expect(page.locator("#alert")).to_contain_text("again to overrule")
    page.wait_for_timeout(150)
    expect(page.locator("#alert")).to_be_visible()
    assert [verdict for _, verdict in verdicts(run)] == ["reject"]
    press(page, "a")
    assert [verdict for _, verdict in verdicts(run)] == ["reject", "accept"]


def test_a_drag_ends_with_the_issue_that_it_began_on(browser: Browser, run: Run, address: str) -> None:
    page, wrong = open_page(browser)
    go(page, f"{address}#type=badloc")
    row = run.issues.row(position_of(run, "badloc"), named=True)
    x, y = on_screen(page, row["suggested_x2"], row["suggested_y2"])
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 12, y + 12)
    expect(page.locator("#accepting")).to_contain_text("as you made it")
    page.select_option("[name=type]", "swap")
    page.wait_for_function("position => document.body.dataset.shown === position", arg=str(position_of(run, "swap")))
    page.mouse.move(x + 13, y + 12)
    page.mouse.up()
    press_at_once(page, "b")
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 40, y - 40)
    press(page, "a")
    page.mouse.move(x - 50, y - 50)
    page.mouse.up()
    page.wait_for_timeout(100)
    expect(page.locator("#chooser")).to_be_hidden()
    expect(page.locator("#accepting")).not_to_contain_text("as you made it")
    kept = lines(run.folder)
    swap = run.issues.row(position_of(run, "swap"), named=True)
    assert [(line["issue"], line["xyxy"]) for line in kept] == [(swap["issue_id"], [swap[side] for side in ("x1", "y1", "x2", "y2")])]
    assert wrong == []


def test_a_box_drawn_on_a_picture_that_is_gone_is_not_added(browser: Browser, run: Run, address: str) -> None:
    page, wrong = open_page(browser)
    go(page, address)
    page.keyboard.press("b")
    expect(page.locator("#hint")).to_contain_text("Drag over the object")
    held = hold(page, "**/api/changes*")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    wait_for(page, held)
    page.keyboard.press("n")  # waits its turn
    x, y = on_screen(page, 20, 20)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y + 60)
    page.mouse.up()
    let_go(page, "**/api/changes*", held)
    page.wait_for_function("() => document.body.dataset.shown === '1'")
    expect(page.locator("#hint")).to_contain_text("was not done")
    expect(page.locator("#chooser")).to_be_hidden()
    assert wrong == []


def test_a_finger_may_scroll_the_categories(browser: Browser, run: Run, address: str) -> None:
    page, wrong = open_page(browser, 800, 1180, has_touch=True, is_mobile=True)
    go(page, address)
    before = page.locator("#proposal").inner_text()
    page.tap("[data-do=category]")
    place = page.locator("#options li").nth(2).bounding_box()
    assert place is not None
    fingers = page.context.new_cdp_session(page)
    finger = {"x": place["x"] + 30, "y": place["y"] + 10}
    fingers.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [finger]})
    page.wait_for_timeout(100)
    fingers.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [finger | {"y": finger["y"] - 80}]})
    fingers.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.wait_for_timeout(100)
    expect(page.locator("#chooser")).to_be_visible()
    expect(page.locator("#proposal")).to_have_text(before)
    name = page.locator("#options li").nth(2).evaluate("item => item.firstChild.data")
    page.locator("#options li").nth(2).tap()
    expect(page.locator("#chooser")).to_be_hidden()
    expect(page.locator("#proposal")).to_contain_text(f"'{name}'")
    assert wrong == []


def test_a_late_ranking_leaves_the_queue_of_another_filter_alone(browser: Browser, run: Run) -> None:
    many = pl.concat([run.issues] * 8).with_columns(issue_id=pl.Series([f"{i:012x}" for i in range(8 * run.issues.height)]))
    many = many.with_columns(probability=pl.Series(np.linspace(0.95, 0.55, many.height)))
    decided = [Decision(row["issue_id"], "reject", row["image_id"]) for row in many.head(19).iter_rows(named=True)]
    DecisionLog(run.folder).append(decided)
    with served(replace(run, issues=many)) as address:
        page, wrong = open_page(browser)
        go(page, address)
        held: list[Route] = []
        page.route("**/api/queue*", lambda route: route.continue_() if held else held.append(route))
        page.keyboard.press("r")
        wait_for(page, held)
        page.select_option("[name=type]", "overlooked")
        expect(page.locator("#type")).to_have_text(TYPES["overlooked"])
        held[0].continue_()
        page.wait_for_load_state("networkidle")
        for _ in range(3):
            press(page, "n")
            assert many["issue_type"][int(shown(page))] == "overlooked"
    assert wrong == []


def test_an_undo_that_failed_can_be_tried_again(browser: Browser, run: Run, address: str) -> None:
    page, _ = open_page(browser)
    go(page, address)
    press(page, "a")
    page.route("**/api/undo*", lambda route: route.fulfill(**FULL))
    page.keyboard.press("u")
    expect(page.locator("#alert")).to_contain_text("No space left")
    page.unroute("**/api/undo*")
    press(page, "u")
    assert [verdict for _, verdict in verdicts(run)] == ["accept", "open"]
    page.keyboard.press("u")
    expect(page.locator("#hint")).to_contain_text("nothing of this window to undo")


def test_decisions_that_are_taken_away_under_the_review_are_said(browser: Browser, run: Run, address: str) -> None:
    page, _ = open_page(browser)
    go(page, address)
    press(page, "a")
    (run.folder / "decisions.jsonl").unlink()
    page.keyboard.press("r")
    expect(page.locator("#alert")).to_contain_text("not kept")
    expect(page.locator("#alert")).to_contain_text("was replaced or cut")
    assert (shown(page), lines(run.folder)) == ("1", [])
