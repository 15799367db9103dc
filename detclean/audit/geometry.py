"""Faults of the boxes themselves: what their numbers alone give away."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from detclean.boxes import Ints, Mask, aligned_iou, box_area, clip_boxes, find_close_pairs
from detclean.dataset import Dataset, Finding, Severity, shorten_path
from detclean.formats.records import FINDINGS_PER_KIND

OUTSIDE_PX, OUTSIDE_SHARE = 1.0, 0.01  # how far a box may reach over the border: rounding of a pixel, or of a percent of the side
NEAR_IOU = 0.9  # two people who draw one object rarely agree this well (COCO's own annotators: mostly below), so it is one box twice
TINY_PX = 2.0  # px a side, in the picture as it is: below it there is nothing to see
COVERING_SHARE = 0.95  # of the image: more often a slip or a whole-image label than an object


def find_geometry_faults(dataset: Dataset) -> list[Finding]:
    """Empty, inverted, outlying, repeated, tiny and image-filling boxes, unused categories, images without any annotation."""
    return [*_find_box_faults(dataset), *_find_repeated_boxes(dataset), *_find_unused(dataset)]


def list_findings(kind: str, severity: Severity, chosen: Ints, describe: Callable[[int], tuple[str, str]], where: str) -> list[Finding]:
    """One finding for each of the first FINDINGS_PER_KIND of `chosen` (n,), and one at `where` that counts the rest.

    describe: position -> (where, message).
    """
    findings = [Finding(kind, severity, *describe(int(i))) for i in chosen[:FINDINGS_PER_KIND]]
    if len(chosen) > FINDINGS_PER_KIND:
        findings.append(Finding(kind, severity, where, f"and {len(chosen) - FINDINGS_PER_KIND} more of this kind ({kind})"))
    return findings


def _find_box_faults(dataset: Dataset) -> list[Finding]:
    boxes = dataset.annotations
    xyxy, size = boxes.xyxy, dataset.sizes[boxes.image_index]
    sides = xyxy[:, 2:] - xyxy[:, :2]
    inverted: Mask = sides.min(axis=1) < 0
    empty: Mask = ~inverted & ~(sides.min(axis=1) > 0)
    slack = np.maximum(OUTSIDE_PX, OUTSIDE_SHARE * size)
    fair = ~inverted & ~empty
    sized = fair & (size.min(axis=1) > 0)  # a reader gives 0 or nothing where it cannot know
    wholly: Mask = sized & np.logical_or(xyxy[:, :2] >= size, xyxy[:, 2:] <= 0).any(axis=1)
    partly: Mask = sized & ~wholly & np.logical_or(xyxy[:, :2] < -slack, xyxy[:, 2:] > size + slack).any(axis=1)
    tiny: Mask = fair & (sides.min(axis=1) < TINY_PX)
    covering: Mask = sized & (box_area(clip_boxes(xyxy, size)) > COVERING_SHARE * size.prod(axis=1)) & ~_crowd(dataset)

    def report(kind: str, severity: Severity, mask: Mask, text: str) -> list[Finding]:
        def describe(i: int) -> tuple[str, str]:
            return dataset.describe_source(i), f"{_describe_box(dataset, i)} {text}"

        return list_findings(kind, severity, np.flatnonzero(mask), describe, dataset.source.name)

    return [
        *report("box-empty", "warning", empty, "has no area: delete it or draw it again"),
        *report("box-inverted", "warning", inverted, "ends before it begins: swap its corners or draw it again"),
        *report("box-outside-image", "warning", wholly, "lies outside the image: check the units and the image's size, or delete it"),
        *report("box-partly-outside", "warning", partly, "reaches over the image's border: cut it there"),
        *report("box-tiny", "note", tiny, f"is less than {TINY_PX:g} px on a side: check that there is something to see"),
        *report("box-covers-image", "note", covering, f"covers more than {COVERING_SHARE:.0%} of the image: check that it is one object"),
    ]


def _find_repeated_boxes(dataset: Dataset) -> list[Finding]:
    boxes, names = dataset.annotations, dataset.categories
    usable = np.flatnonzero(~_crowd(dataset))  # a crowd region and an object in it may well share a box
    pairs = usable[find_close_pairs(boxes.image_index[usable], boxes.xyxy[usable], NEAR_IOU)]
    same_category = boxes.category[pairs[:, 0]] == boxes.category[pairs[:, 1]]
    identical = same_category & (boxes.xyxy[pairs[:, 0]] == boxes.xyxy[pairs[:, 1]]).all(axis=1)

    def describe_identical(i: int) -> tuple[str, str]:
        message = f"{_describe_box(dataset, i)} repeats {dataset.describe_source(int(earlier[i]))}: delete one"
        return dataset.describe_source(i), message

    def describe_near(p: int) -> tuple[str, str]:
        a, b = (int(i) for i in near[p])
        first, second = names[int(boxes.category[a])], names[int(boxes.category[b])]
        iou = float(aligned_iou(boxes.xyxy[a], boxes.xyxy[b]))
        told = f"both {first}: delete one" if first == second else f"{second} here, {first} there: decide for one"
        message = f"{_describe_box(dataset, b)} covers the same place as {dataset.describe_source(a)} (IoU {iou:.2f}), {told}"
        return dataset.describe_source(b), message

    # Of five copies the four later ones are told about, each once, with the first: not all ten pairs.
    repeats, first_seen = np.unique(pairs[identical][:, 1], return_index=True)
    earlier = dict(zip(repeats.tolist(), pairs[identical][first_seen, 0].tolist(), strict=True))
    near = pairs[~identical & ~np.isin(pairs, repeats).any(axis=1)]
    where = dataset.source.name
    return [
        *list_findings("box-identical", "warning", repeats, describe_identical, where),
        *list_findings("box-near-identical", "warning", np.arange(len(near)), describe_near, where),
    ]


def _find_unused(dataset: Dataset) -> list[Finding]:
    where, findings = dataset.source.name, []
    if dataset.image_count and not len(dataset.annotations):  # that no category and no image has one is said by that
        return [Finding("dataset-without-annotations", "warning", where, _describe_emptiness(dataset))]
    used = np.bincount(dataset.annotations.category, minlength=len(dataset.categories))

    def describe(category: int) -> tuple[str, str]:
        return where, f"category {dataset.categories[category]} ({category}) has no annotation: leave it out, or look why there is none"

    findings += list_findings("category-unused", "note", np.flatnonzero(used == 0), describe, where)
    if len(dataset.categories) == 1:
        message = f"there is only one category, {dataset.categories[0]}: no annotation can be found to have the wrong one"
        findings.append(Finding("category-only-one", "note", where, message))
    bare = np.flatnonzero(np.bincount(dataset.annotations.image_index, minlength=dataset.image_count) == 0)
    if len(bare):
        first = dataset.images["file_name"][int(bare[0])]
        message = f"{len(bare)} of {dataset.image_count} images have no annotation (first: {first}): background, or not annotated yet?"
        findings.append(Finding("image-without-annotations", "note", where, message))
    return findings


def _describe_emptiness(dataset: Dataset) -> str:
    images, place = dataset.image_count, dataset.images["label_path"][0]
    told = "the only image has no annotation" if images == 1 else f"none of the {images} images has an annotation"
    looked = f" (the first image's belong in {shorten_path(place, dataset.source)})" if place else ""
    return f"{told}: add the labels, or look why none was found{looked}"


def _crowd(dataset: Dataset) -> Mask:
    crowd = dataset.annotations.is_crowd
    return np.zeros(len(dataset.annotations), bool) if crowd is None else crowd.astype(bool)


def _describe_box(dataset: Dataset, i: int) -> str:
    """The box as a person finds it: category, picture, corners in pixels."""
    boxes = dataset.annotations
    corners = ", ".join(f"{value:.6g}" for value in boxes.xyxy[i])
    return f"{dataset.categories[int(boxes.category[i])]} in {dataset.images['file_name'][int(boxes.image_index[i])]} at ({corners})"
