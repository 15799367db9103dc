"""The page: figures, plots and pictures of a finished run, put into the templates."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from detclean.edit.decisions import read_decisions
from detclean.files import write_whole
from detclean.health import open_groupings, read_health
from detclean.health.categories import list_confusions, rank_categories
from detclean.health.counts import hear_people
from detclean.report import facts, words
from detclean.runfolder import Run
from detclean.score.recalibration import MIN_DECISIONS
from detclean.show.drawing import GIVEN, PROPOSED
from detclean.show.words import TYPES

PICTURES = 500  # of issues that are shown; 2,000 are still one file of less than 40 MB
GATHERINGS_SHOWN = 6
TEMPLATES = Path(__file__).parent / "templates"


def write_report(run: Run, path: Path, *, pictures: int = PICTURES) -> None:
    """The report of a finished run as one HTML file, the `pictures` worst issues as pictures. The same run gives the same bytes.

    Raises StageError where a table of the run folder is gone, DatasetError where decisions.jsonl is damaged.
    """
    html = render_report(run, pictures=pictures)
    write_whole(path, html.encode(errors="replace"))  # a folder's name need not be Unicode


def render_report(run: Run, *, pictures: int = PICTURES) -> str:
    """The HTML of `write_report`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {name: getattr(words, name) for name in ("percent", "number", "expected", "decimals", "duration")}
    environment.globals |= {"plural": words.plural, "TYPES": TYPES, "MEANING": words.MEANING, "VERDICTS": words.VERDICTS}
    environment.globals |= {"LEAST_DECISIONS": MIN_DECISIONS, "SPACE": words.SPACE}
    environment.globals |= {"COLOURS": words.COLOURS, "GIVEN": GIVEN, "PROPOSED": PROPOSED}
    return environment.get_template("report.html").render(gather_facts(run, pictures))


def gather_facts(run: Run, pictures: int) -> dict[str, Any]:
    """Everything that the template shows, by name."""
    from detclean.report.compared import gather_compared
    from detclean.report.hardest import gather_hardest
    from detclean.report.pictures import make_cards
    from detclean.report.thumbnails import picture_issues

    annotations, candidates, images = (run.table(name) for name in ("annotations", "candidates", "images"))
    health = read_health(run.folder)
    decisions = read_decisions(run.folder)
    issues = run.issues.sort("rank")
    heard = (annotations, candidates)
    if health and health["decided"]:  # as there, for its intervals stand beside
        heard = hear_people(annotations, candidates, run.issues, decisions)[:2]
    categories = rank_categories(run, *heard)
    shown = [category for category in categories[: facts.CATEGORIES_SHOWN] if category.wrong is not None]
    cards = make_cards(run.dataset, issues.head(pictures), decisions)
    return {
        "summary": run.summary,
        "glance": facts.glance(run, annotations, candidates),
        "decided": facts.count_decisions(issues, decisions),
        "categories": shown,
        "more_categories": sum(category.wrong is not None for category in categories) - len(shown),
        "empty_categories": [category for category in categories if category.wrong is None],
        "widest": max((category.wrong or 0.0 for category in shown), default=0.0) or 1.0,
        "confusions": list_confusions(heard[0]),
        "health": health,
        "health_of": {row["name"]: row for row in health["categories"]} if health else {},
        "picture_issues": picture_issues(health) if health else [],
        "plots": _draw_plots(run, annotations, candidates, images, health),
        "cards": cards,
        "compared": gather_compared(run),
        "hardest": gather_hardest(run),
        "kinds": [kind for kind in TYPES if any(card.kind == kind for card in cards)],
        "findings": facts.list_findings(run),
        "config": _read_config(run),
        "folder": shlex.quote(str(run.folder)),
        "renew": f"python -m detclean run {shlex.quote(str(run.folder / 'config.yaml'))}",
    }


def _draw_plots(run: Run, annotations: Any, candidates: Any, images: Any, health: dict[str, Any] | None) -> list[Any]:
    from detclean.health.groups import compare_groups
    from detclean.report import plots

    gatherings = open_groupings(health)[:GATHERINGS_SHOWN] if health else []
    gatherings = gatherings or [compare_groups(images, annotations, candidates)]

    realised = {
        "confirmed by people": facts.realised_by_decisions(run.issues, read_decisions(run.folder)),
        "true by the answer key": facts.realised_by_answers(run),
    }
    drawn = [
        plots.plot_probabilities(run.issues),
        plots.plot_precision(run.issues, realised),
        plots.plot_errors(images),
        plots.plot_quality(images),
        plots.plot_folds(run.summary.get("folds") or []),
        plots.plot_hardness(annotations),
        *(plots.plot_groups(grouping, f"groups-{i}" if i else "groups") for i, grouping in enumerate(gatherings)),
    ]
    return sorted(drawn, key=lambda plot: plot.svg is None)  # those that have nothing to show come last


def _read_config(run: Run) -> str:
    try:
        return (run.folder / "config.yaml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
