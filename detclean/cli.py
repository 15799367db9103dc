"""The commands, and the only place where errors become words. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from detclean import __version__
from detclean.errors import ConfigError, DetcleanError

FAULTS_FOUND, BAD_INPUT, BUG, STOPPED = 1, 2, 3, 130
REPORTED = (
    "ultralytics",
    "torch",
    "numpy",
    "polars",
    "cleanlab",
    "scikit-learn",
    "opencv-python",
    "pillow",
)  # packages, in the report of a bug
ENVIRONMENT_ERRORS = {  # the machine's or the command line's, nobody's bug
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
    *(errno.EIO, errno.ENXIO, errno.ENODEV, errno.EBUSY, errno.ESTALE, errno.ETIMEDOUT, errno.ENOLCK),  # disks, and those of the network
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR),
}

app = typer.Typer(
    name="detclean",
    help="Finds wrong labels in object-detection data sets and helps people put them right.",
    add_completion=False,
    no_args_is_help=False,
    rich_markup_mode=None,
)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"detclean {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)] = False,
) -> None:
    pass


@app.command()
def run(
    config: Annotated[str, typer.Argument(help="The configuration, a YAML file such as configs/yolo.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Override the file: train.epochs=20 model=yolo26n.pt")
    ] = None,
) -> None:
    """Find wrong labels, rank them, write a cleaned copy."""
    from detclean.config import read_config

    resolved = read_config(config, overrides or [])

    from detclean.pipeline import run_pipeline
    from detclean.show.progress import open_display
    from detclean.show.summary import print_summary

    with open_display(resolved.folder / "run.log") as display:
        result = run_pipeline(resolved, display)
    print_summary(result.summary, result.issues, result.folder)


@app.command()
def check(
    data: Annotated[str, typer.Argument(help="A YOLO data.yaml, a COCO .json or a Pascal VOC folder.")],
    options: Annotated[list[str] | None, typer.Argument(metavar="images=FOLDER", help="Where a COCO file's images lie.")] = None,
    show_all: Annotated[bool, typer.Option("--all", help="Show every finding, not the first few of each kind.")] = False,
    form: Annotated[str, typer.Option("--format", metavar="FORMAT", help="text; for programs json (a finding a line) or github.")] = "text",
) -> None:
    """Look for faults that need no model, in seconds. Exit status 1 where something is wrong."""
    images = _read_images_option(options or [])

    from rich.console import Console

    from detclean.audit import audit_dataset, count_faults
    from detclean.formats import read_dataset
    from detclean.machine import count_cores
    from detclean.show.findings import print_check, require_format
    from detclean.show.progress import open_display

    require_format(form)
    with open_display(console=Console(stderr=True, quiet=not sys.stderr.isatty())) as display:  # standard output is for the findings
        dataset = read_dataset(data, images)
        display.task("images", "read", dataset.image_count)
        audit = audit_dataset(dataset, workers=count_cores(), progress=lambda done, total: display.advance("images", done, total))
    print_check(audit.findings, dataset, data, form, show_all)
    if count_faults(audit.findings):
        raise typer.Exit(FAULTS_FOUND)


@app.command()
def plan(
    config: Annotated[str, typer.Argument(help="The configuration of the run, a YAML file such as configs/yolo.yaml.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Override the file: train.epochs=20 folds.k=3")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write the plan as JSON to standard output.")] = False,
) -> None:
    """Try out the machine for half a minute and say what a run will take."""
    from detclean.config import read_config

    resolved = read_config(config, overrides or [])

    import orjson
    from rich.console import Console

    from detclean.plan import describe_plan, make_plan
    from detclean.show.plan_table import print_plan
    from detclean.show.progress import open_display

    with open_display(console=Console(stderr=True, quiet=not sys.stderr.isatty())) as display:  # standard output is for the plan
        document = describe_plan(make_plan(resolved, display))
    if as_json:
        print(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())
    else:
        print_plan(document)


@app.command()
def benchmark(
    config: Annotated[str, typer.Argument(help="The configuration of a data set whose labels can be trusted.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Override the file: benchmark.seeds=[0,1,2] runs=runs/benchmarks")
    ] = None,
) -> None:
    """Plant errors into trusted labels and measure how well they are found, beside other tools."""
    from detclean.config import read_config

    resolved = read_config(config, overrides or [])

    from detclean.pipeline.benchmark import run_benchmark
    from detclean.show.benchmark_table import print_benchmark
    from detclean.show.progress import open_display

    with open_display(resolved.folder / "run.log") as display:
        result = run_benchmark(resolved, display)
    print_benchmark(result.document, result.folder)


RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="The folder of a finished run, such as runs/digits.")]


@app.command()
def review(
    run: RunFolder,
    host: Annotated[str, typer.Option(help="The address to listen on; on any but 127.0.0.1 the page needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port, or the next free one.")] = 8377,
    browser: Annotated[bool, typer.Option(help="Open a browser window.")] = True,
    token: Annotated[bool, typer.Option("--token", help="Ask for a token on 127.0.0.1, too: where others can log in.")] = False,
) -> None:
    """Look at the issues one by one and decide, in a browser."""
    import secrets

    from detclean.review import serve
    from detclean.runfolder import open_run

    serve(open_run(run), host=host, port=port, token=secrets.token_urlsafe(24) if token else None, open_browser=browser)


@app.command()
def apply(
    run: RunFolder,
    auto: Annotated[float | None, typer.Option(metavar="P", help="Also apply undecided issues from this probability on.")] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Edit the data set's own label files, not a copy of it.")] = False,
) -> None:
    """Bring accepted decisions into a cleaned copy of the data set, or into its own files."""
    from detclean.pipeline.apply import apply_decisions
    from detclean.show.repairs import print_applied

    if auto is not None and not 0 <= auto <= 1:
        raise ConfigError(f"--auto {auto}: is no probability; give a number from 0 to 1, such as 0.8")
    outcome = apply_decisions(run, auto=auto, in_place=in_place)
    print_applied(outcome.applied, run, strangers=outcome.strangers)


@app.command()
def undo(run: RunFolder) -> None:
    """Take the newest application back, to the byte."""
    from detclean.pipeline.apply import undo_decisions
    from detclean.show.repairs import print_undone

    print_undone(undo_decisions(run))


@app.command()
def export(
    run: RunFolder,
    to: Annotated[str, typer.Option(metavar="TOOL", help="labelstudio, cvat, fiftyone, coco, yolo, voc or csv.")],
    out: Annotated[str | None, typer.Option(metavar="FOLDER", help="Where to; RUN/handover/TOOL if not said.")] = None,
    images: Annotated[str, typer.Option(help="Which images: open (with undecided issues), issues (with any), all.")] = "open",
) -> None:
    """Hand the issues over to an annotation tool, or to another format."""
    from detclean.handover import export_run
    from detclean.runfolder import open_run
    from detclean.show.repairs import print_exported

    print_exported(export_run(open_run(run), to, Path(out) if out else None, images=images))


@app.command()
def import_decisions(
    run: RunFolder,
    file: Annotated[str, typer.Argument(help="What an annotation tool wrote: Label Studio's JSON, CVAT for images 1.1, or COCO.")],
) -> None:
    """Take decisions back from an annotation tool."""
    from detclean.handover import import_decisions as take_back
    from detclean.runfolder import open_run
    from detclean.show.repairs import print_imported

    print_imported(take_back(open_run(run), Path(file)), run)


@app.command()
def compare(
    run: RunFolder,
    strategies: Annotated[
        str, typer.Option(help="What to compare with the labels as given, separated by commas; see above.")
    ] = "fix,drop_boxes,drop_images",
    seeds: Annotated[int, typer.Option(help="How many trainings of each version.")] = 3,
) -> None:
    """Train on the labels as given and on cleaned ones, and judge both on images that nobody cleaned.

    \b
    fix          put every suspected error right as proposed
    drop_boxes   delete suspected boxes
    drop_images  leave out images with a suspected error
    drop_hard    leave out images with something merely hard, and nothing noisy
    keep_hard    leave out as many of the easiest images, so that the hard stay
    reweight     draw an image as often as all its labels are likely right
    curriculum   the more trusted half of the images first, then all

    As much done at random is always trained, too: cleaning has to beat it.
    """
    if seeds < 1:
        raise ConfigError(f"--seeds {seeds}: at least one training of each version is needed")

    from detclean.distribute import refuse_strange_cluster
    from detclean.pipeline.compare import compare_strategies
    from detclean.runfolder import refuse_links
    from detclean.show.comparison_table import print_comparison
    from detclean.show.progress import open_display

    if not (Path(run) / "summary.json").is_file():
        raise ConfigError(f"{run}: is not the folder of a finished run, such as runs/NAME")
    refuse_links(Path(run))
    refuse_strange_cluster(Path(run))
    with open_display(Path(run) / "compare" / "run.log") as display:
        result = compare_strategies(run, [name.strip() for name in strategies.split(",") if name.strip()], seeds, display)
    print_comparison(result.document, result.folder)


@app.command()
def health(run: RunFolder) -> None:
    """Say how good the labels are, what is wrong with pictures and splits, where errors gather, and what to do first."""
    from rich.console import Console

    from detclean.pipeline.run import find_health
    from detclean.show.health_table import print_health
    from detclean.show.progress import open_display

    with open_display(console=Console(stderr=True, quiet=not sys.stderr.isatty())) as display:  # standard output is for the tables
        document = find_health(Path(run), display)
    print_health(document, Path(run))


@app.command()
def hard(
    run: Annotated[str, typer.Option(metavar="RUN", help="The folder of a finished run, such as runs/digits.")],
    images: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="New images without labels, a folder or a .txt list; else the run's own are shown.")
    ] = None,
    out: Annotated[str | None, typer.Option(metavar="FOLDER", help="Where to; RUN/hard/NAME if not said.")] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="How many new images hard.txt lists; all if not said.")] = None,
) -> None:
    """Say which images are hard for the detectors: of the run, or of new ones which to annotate first."""
    from detclean.runfolder import open_run
    from detclean.show.hard_table import print_hard, read_hard

    if limit is not None and limit < 1:
        raise ConfigError(f"--limit {limit}: at least one image has to be listed")
    finished = open_run(run)
    if images is None:
        if out is not None or limit is not None:
            raise ConfigError("--out and --limit are of new images; name them with --images FOLDER")
        print_hard(read_hard(finished.folder), finished.folder, finished.summary.get("per_category") or {})
        return

    from detclean.distribute import refuse_strange_cluster
    from detclean.pipeline.hard import place_ranking, rank_new_images
    from detclean.runfolder import refuse_links
    from detclean.show.progress import open_display

    refuse_links(Path(run))
    refuse_strange_cluster(Path(run))
    folder = place_ranking(run, images, out)
    with open_display(folder / "run.log") as display:
        ranking = rank_new_images(run, images, folder, limit, display)
    print_hard(ranking.table, ranking.folder)


def _read_images_option(options: Sequence[str]) -> str | None:
    images = None
    for option in options:
        key, _, images = option.partition("=")
        if key != "images" or not images:
            raise ConfigError(f"command line: '{option}' is no option of check; the only one is images=FOLDER")
    return images


def answer(arguments: Sequence[str]) -> int:
    """Runs a command line and answers its exit status; every error has become a line on standard error."""
    try:
        status = app(args=list(arguments), prog_name="detclean", standalone_mode=False)
    except (DetcleanError, typer.TyperException) as error:
        hint = "" if isinstance(error, DetcleanError) else "; detclean --help lists what there is"
        words = str(error) if isinstance(error, DetcleanError) else error.format_message()  # which names the option
        print(f"error: {_as_line(words).rstrip('.')}{hint}", file=sys.stderr)
        return BAD_INPUT
    except Exception as error:
        if isinstance(error, OSError) and error.errno in ENVIRONMENT_ERRORS:
            words = _as_line(f"{error.filename or 'a file'}: {error.strerror}")
            print(f"error: {words}; mend that, and the same command goes on", file=sys.stderr)
            return BAD_INPUT
        if isinstance(error, MemoryError):
            print("error: the memory does not suffice; close other programs, or take another machine, and run again", file=sys.stderr)
            return BAD_INPUT
        words = _as_line(f"{type(error).__name__}: {error}")
        print(f"error: a bug in detclean: {words} (details: {_write_traceback(arguments)})", file=sys.stderr)
        return BUG
    if status == STOPPED:  # typer's answer to Ctrl-C
        print("\nstopped; the same command goes on from here", file=sys.stderr)
    return int(status or 0)


def _as_line(text: str) -> str:
    """One line that a terminal only shows: names of files and categories may hold escape sequences."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(text.split()))


def _write_traceback(arguments: Sequence[str]) -> str:
    """Writes a report for whoever mends a bug: versions, the command line, the traceback; no image, label or list of files. -> its path"""
    import platform
    import tempfile
    import traceback
    from importlib.metadata import PackageNotFoundError, version

    def find_version(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    lines = [
        "A bug in detclean. This report holds no image and no label, but perhaps names of folders: look through it before you send it.",
        "Send it to where you got detclean from, as a new issue, and say what you did before.",
        "",
        f"detclean {__version__}, Python {platform.python_version()}, {platform.platform()}",
        ", ".join(f"{package} {find_version(package)}" for package in REPORTED),
        f"command: detclean {' '.join(map(repr, arguments))}",
        "",
        traceback.format_exc(),
    ]
    text = "\n".join(lines)
    home = os.path.expanduser("~")
    if len(home) > 1:
        text = text.replace(home + os.sep, "~" + os.sep)
    with tempfile.NamedTemporaryFile(
        "w", prefix="detclean-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
    ) as f:
        f.write(text)
    return f.name


def main() -> None:
    """The entry point of `detclean` and `python -m detclean`."""
    for stream in (sys.stdout, sys.stderr):  # a file name that the terminal's encoding lacks is shown, not died of
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(answer(sys.argv[1:]))
