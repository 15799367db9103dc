"""report.html of runs large and small, whole and with parts missing, and with names that would like to be markup."""

from __future__ import annotations

import base64
import io
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from bench_report import draw_issues, make_dataset, make_run
from finished import copy_run, finish_run
from PIL import Image
from typer.testing import CliRunner

from detclean.boxes import Boxes
from detclean.cli import app
from detclean.edit.decisions import Decision, DecisionLog
from detclean.report import write_report
from detclean.report.pictures import VIEW, make_cards
from detclean.runfolder import Run, open_run
from detclean.score.recalibration import MIN_DECISIONS, describe_precision

HOSTILE = "<img src=x onerror=alert(1)>\"'& $\\frac{1}$ \x1b[31m \u202e</text></svg><script>alert(2)</script>"
VOID = {"meta", "img", "input", "br", "link", "hr"}


class Page(HTMLParser):
    """What a browser would make of a page: elements with their attributes, and the text in each."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def all(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        return [found for name, found in self.elements if name == tag and attributes.items() <= found.items()]

    def with_class(self, name: str) -> list[dict[str, str | None]]:
        return [found for _, found in self.elements if name in (found.get("class") or "").split()]


def render(run: Run, path: Path, **more: Any) -> Page:
    write_report(run, path, **more)
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    for tag, attributes in page.elements:  # nothing outside the file, and no two figures share an id
        assert tag not in ("script", "link", "iframe", "object", "base", "form")
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "action", "poster", "srcset"):
            assert re.match(r"data:image/jpeg;base64,|#", attributes.get(name) or "#"), attributes
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {attributes["xlink:href"] for _, attributes in page.elements if "xlink:href" in attributes} <= {f"#{name}" for name in ids}
    return page


def made_up(folder: Path, images: int = 12, issues: int = 15, categories: int = 3, pictured: bool = True) -> Run:
    paths: list[str | None] = [None] * images
    if pictured:
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        for i in range(images):
            paths[i] = str(folder / f"{i}.jpg")
            Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)).resize((640, 480)).save(paths[i])
    dataset = make_dataset(folder, paths, categories)
    return make_run(folder / "run", dataset, draw_issues(dataset, issues))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return open_run(copy_run(tmp_path_factory, "coco"))


def test_the_report_of_a_run_says_what_was_found(finished: Run, tmp_path: Path) -> None:
    page = render(finished, tmp_path / "report.html")
    shown = finished.issues.height
    assert f"{shown} labels look wrong." in page.text
    assert len(page.with_class("card")) == shown
    assert len(page.all("img", width="260")) >= shown
    for row in finished.issues.iter_rows(named=True):
        assert row["reason"] in page.text
        assert row["file_name"] in page.text
        assert row["source"] is None or row["source"] in page.text
    for name in finished.dataset.categories:
        assert name in page.text
    assert f"python -m detclean review {finished.folder}" in page.text
    questions = re.findall(r"[A-Z][^.?]*\?", page.text)
    assert len(questions) >= 12
    policy = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy[0]["content"] == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_the_same_run_gives_the_same_bytes(finished: Run, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_report(finished, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert not re.search(rb"20\d\d-\d\d-\d\dT", (tmp_path / "a").read_bytes())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_names_are_text_wherever_they_stand(tmp_path: Path) -> None:
    run = made_up(tmp_path)
    names = (HOSTILE, "$x$", "plain")
    hostile = dict(zip(run.dataset.categories, names, strict=True))
    for table in ("annotations", "candidates"):
        frame = run.table(table)
        columns = [pl.col(name).replace(hostile) for name in ("category", "other_category") if name in frame.columns]
        frame.with_columns(columns).write_parquet(run.folder / f"{table}.parquet")
    pl.DataFrame([[HOSTILE] * 4], schema=["kind", "severity", "where", "message"], orient="row").write_csv(run.folder / "findings.csv")
    (run.folder / "config.yaml").write_text(f"name: '{HOSTILE}'")
    texts = [pl.lit(HOSTILE).alias(name) for name in ("reason", "file_name", "source")]
    renamed = [pl.col(name).replace(hostile) for name in ("category", "suggested_category")]
    images = run.dataset.images.with_columns(file_name=pl.lit('a"><b/') + pl.col("image_id").cast(pl.String))
    images.select("image_id", "file_name", label_quality_score=0.5, expected_errors=0.1).write_parquet(run.folder / "images.parquet")
    run = replace(
        run,
        summary=run.summary | {"name": HOSTILE, "data": HOSTILE, "categories": names, "per_category": {HOSTILE: 0.5}},
        dataset=replace(run.dataset, categories=names, images=images),
        issues=run.issues.with_columns(*texts, *renamed),
    )
    page = render(run, tmp_path / "report.html")
    assert page.text.count(HOSTILE) > 30
    assert "onerror" not in {name for _, attributes in page.elements for name in attributes}
    assert len(page.all("img")) == 15


@pytest.mark.parametrize(
    ("images", "issues", "categories", "pictured"),
    [(1, 1, 1, True), (1, 0, 1, False), (12, 15, 3, False), (40, 20, 2000, False)],
    ids=["one of all", "no issues", "no pictures", "thousands of categories"],
)
def test_a_run_may_be_of_any_size(tmp_path: Path, images: int, issues: int, categories: int, pictured: bool) -> None:
    run = made_up(tmp_path, images, issues, categories, pictured)
    page = render(run, tmp_path / "report.html")
    assert len(page.with_class("card")) == issues
    assert len(page.all("img")) == (issues if pictured else 0)
    assert bool(re.search(r"\d labels? looks? wrong\.", page.text)) == (issues > 0)
    assert ("Without annotations" in page.text) == (categories == 2000)
    if categories == 2000:
        assert re.search(r"\d+ healthier categories are not shown", page.text)


def test_a_data_set_without_annotations(tmp_path: Path) -> None:
    run = made_up(tmp_path, 3, 0, 2)
    empty = replace(run.dataset, annotations=Boxes.empty(), source_rows=np.zeros(0, int))
    for table in ("annotations", "candidates"):
        run.table(table).head(0).write_parquet(run.folder / f"{table}.parquet")
    page = render(replace(run, dataset=empty, summary=run.summary | {"annotations": 0}), tmp_path / "report.html")
    assert "No category has an annotation." in page.text


def test_only_the_worst_are_pictured(tmp_path: Path) -> None:
    run = made_up(tmp_path)
    page = render(run, tmp_path / "report.html", pictures=4)
    assert len(page.all("img")) == 4
    assert "The 4 worst, of 15 issues." in page.text


def test_what_people_decided_is_told(tmp_path: Path) -> None:
    run = made_up(tmp_path)
    first, second, third = run.issues["issue_id"].to_list()[:3]
    DecisionLog(run.folder).append([Decision(first, "accept", 0), Decision(second, "hard", 0), Decision(third, "open", 0)])
    page = render(run, tmp_path / "report.html")
    assert "1 confirmed as wrong, 1 found right, but hard, of 15 issues." in page.text
    assert "Confirmed by people: 50" in page.text
    assert len(page.with_class("done")) == 2


def test_what_came_true_is_told_of_the_same_issues(tmp_path: Path) -> None:
    run = made_up(tmp_path, 12, 40, pictured=False)
    probability = pl.Series([0.95] * MIN_DECISIONS + [0.3] * (40 - MIN_DECISIONS))
    run = replace(run, issues=run.issues.with_columns(probability=probability))
    ids = run.issues["issue_id"].to_list()
    log = DecisionLog(run.folder)
    log.append([Decision(name, "accept", 0) for name in ids[: MIN_DECISIONS - 2]])
    early = said(render(run, tmp_path / "early.html"))
    assert f"From {MIN_DECISIONS} found right or wrong on, it says here how much" in early
    assert "with 95 % confidence" not in early
    log.append([Decision(name, "reject", 0) for name in ids[MIN_DECISIONS - 2 : MIN_DECISIONS]])
    late = said(render(run, tmp_path / "late.html"))
    low_high = describe_precision(np.full(MIN_DECISIONS, 0.95), np.arange(MIN_DECISIONS) > 1) or pytest.fail("nothing decided")
    told = f"Of {MIN_DECISIONS} found right or wrong, 90 % were wrong ({low_high.low:.0%} to {low_high.high:.0%} with 95 % confidence)"
    assert re.sub(r"(\d)%", r"\1 %", told) in late
    assert f"of the same {MIN_DECISIONS}, 95 % were expected to be" in late


def said(page: Page) -> str:
    return " ".join(page.text.split())


def test_the_page_says_how_it_is_renewed_and_so_it_is(tmp_path: Path) -> None:
    folder = finish_run(tmp_path, "coco")
    page = render(open_run(folder), tmp_path / "report.html")
    command = next(line for line in page.text.splitlines() if "python -m detclean run" in line)
    words = shlex.split(command[command.index("python -m detclean run") :])[4:]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    assert "found right" not in (folder / "report.html").read_text()
    DecisionLog(folder).append([Decision(open_run(folder).issues["issue_id"][0], "reject", 0)])
    assert CliRunner().invoke(app, ["run", words[0]]).exit_code == 0
    assert "1 found right" in (folder / "report.html").read_text().replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")} == before


@pytest.mark.parametrize(
    ("wrong", "missed", "title", "lead"),
    [
        (154.0, 0.0, "No label is sure enough to be listed.", "About 154 are expected to be wrong; lower issues.target_precision or set"),
        (0.4, 0.2, "No label is sure enough to be listed.", "About 1 is expected to be wrong;"),
        (0.2, 0.2, "No label looks wrong.", "Nothing was likely enough"),
    ],
)
def test_an_empty_list_is_no_clean_bill(tmp_path: Path, wrong: float, missed: float, title: str, lead: str) -> None:
    run = made_up(tmp_path, 40, 0, pictured=False)
    given = run.table("annotations")
    given.with_columns(p_any=pl.lit(wrong / given.height)).write_parquet(run.folder / "annotations.parquet")
    run.table("candidates").head(1).with_columns(probability=pl.lit(missed)).write_parquet(run.folder / "candidates.parquet")
    text = said(render(run, tmp_path / "report.html"))
    assert title in text
    assert lead in text


def test_an_answer_key_that_is_gone_costs_its_curve_alone(tmp_path: Path) -> None:
    run = made_up(tmp_path)
    (run.folder / "config.yaml").write_text(f"answers: {tmp_path / 'gone.json'}\n")
    row = {"planted": 4, "found": 3, "issues": 15, "correct": 3, "recall": 0.75, "precision": 0.2}
    run = replace(run, summary=run.summary | {"answers": {"per_type": {"swap": row}, "all": row, "hard": 2, "hard_flagged": 1}})
    page = render(run, tmp_path / "report.html")
    assert "3 of 4 were found" in page.text
    assert "by the answer key" not in page.text


def test_a_folder_is_quoted_for_the_shell(tmp_path: Path) -> None:
    run = made_up(tmp_path / "it's; rm -rf", 2, 1, 1, pictured=False)
    page = render(run, tmp_path / "report.html")
    assert "review '" in page.text
    assert "it'\"'\"'s; rm -rf" in page.text


def test_rules_that_decided_are_told(tmp_path: Path) -> None:
    run = made_up(tmp_path, pictured=False)
    assert "too little data" not in render(run, tmp_path / "a.html").text
    assert "too little data" in render(replace(run, summary=run.summary | {"calibrated": False}), tmp_path / "b.html").text


def opened(uri: str | None) -> Image.Image:
    assert uri is not None
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))))


@pytest.mark.parametrize(("width", "height"), [(640, 480), (4000, 3000)])
def test_a_card_shows_the_place_and_its_boxes(tmp_path: Path, width: int, height: int) -> None:
    """A red thing, and a box on it: what lies inside the box on the card is red, at any size of the picture."""
    run = made_up(tmp_path, 1, 1, 1, pictured=False)
    box = np.array([0.5, 0.4, 0.8, 0.7]) * [width, height, width, height]
    x1, y1, x2, y2 = box.round().astype(int).tolist()
    photo = np.zeros((height, width, 3), np.uint8)
    photo[y1:y2, x1:x2, 0] = 255
    Image.fromarray(photo).save(tmp_path / "photo.jpg", quality=95)
    images = run.dataset.images.with_columns(path=pl.lit(str(tmp_path / "photo.jpg")))
    corners = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    issues = run.issues.with_columns(issue_type=pl.lit("spurious"), category=pl.lit("kind 0"), annotation=pl.lit(0), **corners)
    issues = issues.with_columns(pl.lit(None, pl.Float64).alias(f"suggested_{side}") for side in corners)
    twin = Boxes(np.zeros(2), np.zeros(2), np.tile(box, (2, 1)))
    (card,) = make_cards(replace(run.dataset, images=images, annotations=twin), issues, {})
    view = opened(card.picture)
    assert view.size == (VIEW, VIEW)
    assert card.given is not None
    assert card.given_tag == "kind 0"
    assert card.proposed is None
    assert card.neighbours == (card.given,)  # the second box on the same thing
    left, top, box_width, box_height = (round(value) for value in card.given)
    pixels = np.asarray(view.convert("RGB"), dtype=int)
    red = (pixels[..., 0] > 128) & (pixels[..., 1] < 100)
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    assert [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] == pytest.approx([left, top, left + box_width, top + box_height], abs=2)


def test_pictures_that_cannot_be_read_leave_their_words(tmp_path: Path) -> None:
    run = made_up(tmp_path, 3, 6)
    (tmp_path / "0.jpg").write_bytes(b"no picture")
    (tmp_path / "1.jpg").unlink()
    cards = make_cards(run.dataset, run.issues, {})
    assert [card.rank for card in cards] == [1, 2, 3, 4, 5, 6]
    by_image = dict(zip(run.issues["rank"], run.issues["image_index"], strict=True))
    assert {card.rank for card in cards if card.picture} == {rank for rank, image in by_image.items() if image == 2}
    assert "no picture" in render(run, tmp_path / "report.html").text


@pytest.mark.parametrize("box", [[80.0, 80, 40, 40], [50.0, 50, 50, 50], [-9000.0, -300, 9000, 900], [639, 479, 9000, 9000]])
def test_faulty_boxes_have_cards(tmp_path: Path, box: list[float]) -> None:
    run = made_up(tmp_path, 1, 2)
    corners = dict(zip(("x1", "y1", "x2", "y2"), box, strict=True))
    issues = run.issues.with_columns(issue_type=pl.lit("spurious"), **{side: pl.lit(value) for side, value in corners.items()})
    cards = make_cards(run.dataset, issues, {})
    for card in cards:
        assert card.given is not None
        assert max(opened(card.picture).size) <= VIEW
        assert min(card.given[2:]) >= 0
        assert max(abs(value) for value in card.given) <= 2 * VIEW
