"""What can be said about a data set before any model has seen it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

from detclean.audit.cache import Cache as Cache
from detclean.audit.geometry import find_geometry_faults
from detclean.audit.images import find_duplicates, find_image_faults, hash_images
from detclean.audit.reading import Mapper
from detclean.dataset import Dataset, Finding

SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Audit:
    """findings: worst severity first; duplicates: what `find_duplicates` returned, by position in `dataset.images`."""

    findings: tuple[Finding, ...]
    duplicates: pl.DataFrame


def count_faults(findings: Sequence[Finding]) -> int:
    """How many of the findings are of something wrong, and not merely worth knowing."""
    return sum(finding.severity in ("error", "warning") for finding in findings)


def audit_dataset(
    dataset: Dataset,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    mapper: Mapper | None = None,
    cache: Cache | None = None,
) -> Audit:
    """Everything that needs no model, over all splits at once, since pictures also repeat across them.

    progress is called with the number of pictures read and of all that exist; the other three are those of `hash_images`.
    """
    hashes = hash_images(dataset, workers=workers, progress=progress, mapper=mapper, cache=cache)
    duplicates = find_duplicates(hashes)
    findings = [*dataset.findings, *find_geometry_faults(dataset), *find_image_faults(dataset, hashes, duplicates)]
    findings.sort(key=lambda finding: (SEVERITIES.index(finding.severity), finding.kind))
    return Audit(tuple(findings), duplicates)
