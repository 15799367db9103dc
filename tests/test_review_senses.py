"""The review for those who hear it, who have no mouse, and whose keyboard has other letters on it."""

# ruff: noqa: F401, F811  fixtures are imported by name

from __future__ import annotations

import pytest
from browser import open_page
from playwright.sync_api import Browser, Page, expect
from reviewed import SHOWN, address, drag, finished, folder, go, lines, position_of, press, run, shown

from detclean.runfolder import Run
from detclean.show.words import TYPES

FOCUS = "document.activeElement.id || document.activeElement.dataset.do || document.activeElement.tagName"


def press_foreign(page: Page, key: str, code: str, **more: bool) -> None:
    event = {"key": key, "code": code, "bubbles": True} | more
    page.evaluate("event => document.dispatchEvent(new KeyboardEvent('keydown', event))", event)


def test_a_new_issue_is_said_and_a_drag_is_not(browser: Browser, run: Run, address: str) -> None:
    page, wrong = open_page(browser)
    go(page, f"{address}#order=image&type=badloc")
    row = run.issues.row(position_of(run, "badloc"), named=True)
    spoken = page.locator("#spoken")
    expect(spoken).to_have_attribute("role", "status")
    expect(spoken).to_have_text(f"{TYPES['badloc']}: {page.locator('#proposal').inner_text()}")
    page.evaluate("new MutationObserver(() => (window.said = true)).observe(document.getElementById('spoken'), { childList: true })")
    drag(page, (row["suggested_x2"], row["suggested_y2"]), (row["suggested_x2"] + 3, row["suggested_y2"] + 3))
    expect(page.locator("#accepting")).to_contain_text("as you made it")
    assert page.evaluate("window.said") is None
    page.select_option("[name=type]", "swap")
    expect(spoken).to_contain_text(TYPES["swap"])
    assert wrong == []


def test_a_button_keeps_the_focus_for_who_has_no_mouse(browser: Browser, run: Run, address: str) -> None:
    page, wrong = open_page(browser)
    go(page, address)
    page.focus("[data-do=reject]")
    press(page, "Enter")
    assert page.evaluate(FOCUS) == "reject"
    press(page, " ")
    assert [line["verdict"] for line in lines(run.folder)] == ["reject", "reject"]
    before = shown(page)
    for _ in range(4):
        page.keyboard.down("Enter")  # held: the browser repeats it
    page.keyboard.up("Enter")
    page.wait_for_function(SHOWN, arg=before)
    page.wait_for_timeout(150)
    assert len(lines(run.folder)) == 3
    before = shown(page)
    page.click("[data-do=hard]")
    page.wait_for_function(SHOWN, arg=before)
    assert page.evaluate(FOCUS) == "BODY"
    assert wrong == []


def test_the_sheet_of_keys_takes_the_focus_and_gives_it_back(browser: Browser, run: Run, address: str) -> None:
    page, wrong = open_page(browser)
    go(page, address)
    page.focus("[data-do=skip]")
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_focused()
    page.keyboard.press("Tab")
    assert page.evaluate("!document.querySelector('#panel:focus-within, #bar:focus-within, #foot:focus-within, #stage:focus-within')")
    for key in ("a", "Control+z", "Enter"):
        page.keyboard.press(key)
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()
    assert page.evaluate(FOCUS) == "skip"
    assert lines(run.folder) == []
    assert wrong == []


def test_the_end_takes_the_focus_and_says_what_goes_wrong(browser: Browser, run: Run, address: str) -> None:
    page, _ = open_page(browser)
    go(page, f"{address}#type=overlooked")
    press(page, "a")
    assert shown(page) == "end"
    expect(page.locator("#end")).to_be_focused()
    assert page.evaluate("[...document.querySelectorAll('[inert]')].map((one) => one.id)") == ["stage", "panel"]
    page.route("**/api/undo*", lambda route: route.fulfill(status=500, body='{"error": "not kept: the disk is full"}'))
    page.keyboard.press("u")
    expect(page.locator("#endalert")).to_have_text("not kept: the disk is full")
    page.unroute("**/api/undo*")
    press(page, "u")
    assert page.evaluate("document.querySelector('[inert]')") is None
    page.fill("[name=image]", "nowhere")
    expect(page.locator("#end")).to_be_visible()
    expect(page.locator("[name=image]")).to_be_focused()  # who types a filter goes on typing


def test_letters_of_other_alphabets_are_the_keys_they_are_typed_with(browser: Browser, run: Run, address: str) -> None:
    page, wrong = open_page(browser)
    go(page, address)
    press_foreign(page, "к", "KeyR")
    page.wait_for_function("() => document.body.dataset.shown === '1'")
    press_foreign(page, "я", "KeyZ", ctrlKey=True)
    page.wait_for_function("() => document.body.dataset.shown === '0'")
    press_foreign(page, "h", "KeyJ")  # a Latin letter is what it says
    page.wait_for_function("() => document.body.dataset.shown === '1'")
    assert [line["verdict"] for line in lines(run.folder)] == ["reject", "open", "hard"]
    assert wrong == []


def test_a_box_that_is_to_be_deleted_can_be_moved_instead(browser: Browser, run: Run, address: str) -> None:
    page, wrong = open_page(browser)
    go(page, f"{address}#type=spurious")
    row = run.issues.row(position_of(run, "spurious"), named=True)
    assert row["action"] == "delete"
    drag(page, (row["x2"], row["y2"]), (row["x2"] - 4, row["y2"] - 5))
    expect(page.locator("#proposal")).to_have_text(f"Move '{row['category']}' to the blue box")
    page.keyboard.press("a")
    expect(page.locator("#end")).to_be_visible()
    (kept,) = lines(run.folder)
    assert (kept["verdict"], kept["category"]) == ("accept", row["category"])
    assert kept["xyxy"] == pytest.approx([row["x1"], row["y1"], row["x2"] - 4, row["y2"] - 5], abs=0.3)
    assert wrong == []
