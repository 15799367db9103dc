"""How long a person waits for the review app: until the first issue is there, and from a key to the next one, with many issues.

    python scripts/bench_review.py [--issues 50000] [--decisions 150]
    python scripts/bench_review.py --nicegui PYTHON     the same of a bare NiceGUI page, with the Python that has it installed

Makes up a run folder with pictures of a megapixel, starts the app as a process of its own and decides in headless Chromium, first at the
pace of a quick person, then as fast as the screens come. A screen counts as there when its picture and boxes have been drawn. The other
page shows a picture and a line of words, and goes on at a key: what NiceGUI itself takes, without boxes, decisions or a log.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
from PIL import Image

from detclean.boxes import Boxes
from detclean.dataset import Dataset, write_dataset

WIDTH, HEIGHT, FILES = 1152, 864, 24  # a megapixel; so many different pictures are on disk, images share them
ISSUES_AN_IMAGE, BOXES_AN_IMAGE = 2.5, 7
CATEGORIES = tuple(f"category {i}" for i in range(80))
PACE = (0.12, 0.35)  # s between the decisions of a quick person
SERVE = """
import sys
from detclean.review import serve
from detclean.runfolder import open_run
serve(open_run(sys.argv[1]), port=0, open_browser=False)
"""
WATCH = """() => {
  window.waits = [];
  let pressed = null;
  const done = () => requestAnimationFrame(() => {
    if (pressed !== null) window.waits.push(performance.now() - pressed);
    pressed = null;
  });
  document.addEventListener("keydown", () => { pressed = performance.now(); }, true);
  new MutationObserver(done).observe(document.body, { attributes: true });
  document.addEventListener("load", (event) => event.target.tagName === "IMG" && done(), true);
}"""
OTHER = """
import sys
from pathlib import Path
from nicegui import app, ui
app.add_static_files("/pictures", sys.argv[1])
names = sorted(path.name for path in Path(sys.argv[1]).iterdir())
@ui.page("/")
def page():
    state = {"n": 0}
    def go(event):
        if event.action.keydown:
            state["n"] += 1
            picture.set_source(f"/pictures/{names[state['n'] % len(names)]}?{state['n']}")
            words.set_text(f"issue {state['n']}")
    words = ui.label("issue 0")
    picture = ui.interactive_image(f"/pictures/{names[0]}")
    ui.keyboard(on_key=go)
ui.run(host="127.0.0.1", port=int(sys.argv[2]), show=False, reload=False)
"""


@dataclass(frozen=True)
class Waits:
    """What was measured of a page, in milliseconds but for the first two, which are seconds: until the server answers, and until the first
    issue shows; then from a key to the next screen, one row a pace: name, and the waits."""

    server: float
    first: float
    keys: dict[str, list[float]]


def write_run(folder: Path, issues: int, seed: int = 0) -> Path:
    """A run folder as the review app needs it, made up, with so many issues -> the folder."""
    rng = np.random.default_rng(seed)
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    for i in range(FILES):
        coarse = Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        grain = np.asarray(coarse, dtype=np.float64) + rng.normal(0, 9, (HEIGHT, WIDTH, 1))
        Image.fromarray(np.clip(grain, 0, 255).astype(np.uint8)).save(pictures / f"{i:02}.jpg", quality=88)
    count = max(int(issues / ISSUES_AN_IMAGE), 1)
    boxes = count * BOXES_AN_IMAGE
    image_index = np.sort(rng.integers(0, count, boxes))
    corner, side = rng.uniform(0, 0.8, (boxes, 2)) * (WIDTH, HEIGHT), rng.uniform(20, 160, (boxes, 2))
    xyxy = np.concatenate([corner, corner + side], axis=1)
    annotations = Boxes(image_index, rng.integers(0, len(CATEGORIES), boxes), xyxy, annotation_id=np.arange(boxes))
    names = [f"images/{i:06}.jpg" for i in range(count)]
    paths = [str(pictures / f"{i % FILES:02}.jpg") for i in range(count)]
    images = pl.DataFrame(
        {"image_id": names, "file_name": names, "path": paths, "label_path": None, "width": WIDTH, "height": HEIGHT, "split": "train"}
    )
    part = folder / "stages" / "load" / "part"
    part.mkdir(parents=True)
    write_dataset(Dataset(images, CATEGORIES, annotations, np.zeros(boxes, np.int64), "yolo", folder), part)
    (folder / "stages" / "issues").mkdir()
    make_issues(annotations, names, issues, rng).write_parquet(folder / "stages" / "issues" / "issues.parquet")
    (folder / "summary.json").write_bytes(orjson.dumps({"name": "many", "stages": {"load": "load", "issues": "issues"}}))
    return folder


def make_issues(annotations: Boxes, names: list[str], count: int, rng: np.random.Generator) -> pl.DataFrame:
    """So many issues about annotations (with the contract's columns): relabelled, moved and deleted ones in turn."""
    about = np.sort(rng.permutation(len(annotations))[:count])
    image, xyxy = annotations.image_index[about], annotations.xyxy[about]
    kind = rng.integers(0, 3, count)
    category = annotations.category[about]
    shift = rng.integers(1, len(CATEGORIES), count)
    given, other = (np.array(CATEGORIES)[chosen] for chosen in (category, (category + shift) % len(CATEGORIES)))
    moved = np.where(kind[:, None] == 1, xyxy + rng.normal(0, 9, (count, 4)), xyxy)
    proposed = pl.Series(kind != 2)
    table = pl.DataFrame(
        {
            "issue_type": np.array(["swap", "badloc", "spurious"])[kind],
            "probability": np.sort(rng.uniform(0.05, 1, count))[::-1],
            "action": np.array(["relabel", "move", "delete"])[kind],
            "image_id": np.array(names)[image],
            "file_name": np.array(names)[image],
            "annotation_id": about,
            "category": given,
            **{side: xyxy[:, i] for i, side in enumerate(("x1", "y1", "x2", "y2"))},
            "suggested_category": np.where(kind == 0, other, given),
            **{f"suggested_{side}": moved[:, i] for i, side in enumerate(("x1", "y1", "x2", "y2"))},
            "image_index": image,
            "annotation": about,
        }
    )
    suggested = [name for name in table.columns if name.startswith("suggested_")]
    return table.with_columns(
        *(pl.when(proposed).then(pl.col(name)).alias(name) for name in suggested),
        rank=pl.int_range(1, count + 1, dtype=pl.Int64),
        verdict=pl.when(pl.col("probability") >= 0.5).then(pl.lit("noisy")).otherwise(pl.lit("hard")),
        detector_score=pl.lit(0.5),
        iou=pl.lit(0.7),
        votes=pl.lit(2),
        source=pl.format("labels/{}:1", "file_name"),
        reason=pl.lit("The detector sees something else here."),
    )


@contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A server as a process, ended with the block."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


def read_address(process: subprocess.Popen[str]) -> str:
    """The first address that a server prints. Raises SystemExit where it ends without."""
    for line in process.stdout or ():
        if "http://" in line:
            return "http://" + line.partition("http://")[2].split()[0]
    raise SystemExit("the server ended without an address")


def measure_review(browser: Any, folder: Path, decisions: int, seed: int = 0) -> Waits:
    """The review app with the run of a folder."""
    rng = np.random.default_rng(seed)
    begun = time.perf_counter()
    with started([sys.executable, "-c", SERVE, str(folder)]) as process:
        address = read_address(process)
        server = time.perf_counter() - begun
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(address)
        page.wait_for_function("() => document.body.dataset.shown !== undefined")
        first = time.perf_counter() - begun
        page.evaluate(WATCH)
        keys = {}
        for name, pause in (("at a quick person's pace", PACE), ("as fast as screens come", (0.0, 0.0))):
            for _ in range(decisions):
                before = page.evaluate("document.body.dataset.shown")
                page.keyboard.press(rng.choice(["a", "r", "h"], p=[0.6, 0.3, 0.1]))
                page.wait_for_function("old => document.body.dataset.shown !== old", arg=before)
                time.sleep(rng.uniform(*pause))
            page.wait_for_timeout(200)
            keys[name] = page.evaluate("window.waits.splice(0)")
        page.close()
    return Waits(server, first, keys)


def measure_nicegui(browser: Any, python: str, pictures: Path, keys: int, port: int = 8399) -> Waits:
    """A page with a picture and words, made with NiceGUI."""
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        script = Path(place) / "page.py"
        script.write_text(OTHER)
        with started([python, str(script), str(pictures), str(port)]) as process:
            address = read_address(process)
            server = time.perf_counter() - begun
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.goto(address)
            page.get_by_text("issue 0").wait_for()
            page.wait_for_function("() => [...document.images].some((image) => image.complete && image.naturalWidth)")
            first = time.perf_counter() - begun
            page.wait_for_timeout(1000)
            page.evaluate(WATCH)
            for i in range(1, keys + 1):
                page.keyboard.press("a")
                page.wait_for_function("count => window.waits.length >= count", arg=i)
            waits = page.evaluate("window.waits")
            page.close()
    return Waits(server, first, {"as fast as screens come": waits})


def as_table(name: str, waits: Waits) -> str:
    """Lines of Markdown."""
    lines = [f"| {name} | server answers | {waits.server:.2f} s |", f"| {name} | first issue shows | {waits.first:.2f} s |"]
    for pace, found in waits.keys.items():
        middle, most, worst = np.percentile(found, (50, 95, 100))
        lines.append(f"| {name} | key to next screen, {pace} ({len(found)}) | {middle:.0f} ms, 95 % {most:.0f} ms, worst {worst:.0f} ms |")
    return "\n".join(lines)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--issues", type=int, default=50_000)
    parser.add_argument("--decisions", type=int, default=150, help="at each pace")
    parser.add_argument("--nicegui", metavar="PYTHON", help="a Python with NiceGUI, to compare with")
    arguments = parser.parse_args()
    chromium = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
    if chromium is None:
        raise SystemExit("no Chromium here; install Debian's package chromium (make browser)")

    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        folder = write_run(Path(place) / "many", arguments.issues)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--headless", "--no-sandbox", "--disable-gpu"])
        print("| page | what | waited |\n|---|---|---|")
        print(as_table(f"review, {arguments.issues} issues", measure_review(browser, folder, arguments.decisions)))
        if arguments.nicegui:
            print(as_table("NiceGUI", measure_nicegui(browser, arguments.nicegui, folder / "pictures", arguments.decisions)))
        browser.close()


if __name__ == "__main__":
    main()
