"""Issues to the tools that people annotate with, and what comes back as decisions."""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import orjson

from detclean import __version__
from detclean.edit.decisions import DecisionLog, read_decisions
from detclean.errors import ConfigError, DatasetError
from detclean.files import write_whole
from detclean.formats.jsonfile import load_json
from detclean.formats.plainfile import require_plain
from detclean.handover.cvat import read_cvat, write_cvat
from detclean.handover.fiftyone import write_fiftyone
from detclean.handover.labelstudio import read_labelstudio, write_labelstudio
from detclean.handover.plain import read_coco_sheet, write_coco_sheet, write_csv_sheet, write_voc_sheet, write_yolo_sheet
from detclean.handover.returns import ImportResult, Returned, compare
from detclean.handover.sheet import CHOICES, Sheet, make_sheet, select_issues
from detclean.runfolder import Run

__all__ = ["TOOLS", "ExportResult", "ImportResult", "export_run", "import_decisions"]

Tool = Literal["labelstudio", "cvat", "fiftyone", "coco", "yolo", "voc", "csv"]
TOOLS = get_args(Tool)
MARKER = "handover.json"  # tells a folder that this room wrote from one that it did not
DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    OSError,
    RuntimeError,
    NotImplementedError,
    EOFError,
)  # what reading a .zip raises
LARGEST_MEMBER = 1 << 30  # bytes that a file in a .zip may unfold to: some four million boxes
SMALL_MEMBER = 1 << 24  # bytes that it may unfold to however little it is packed
MOST_FOLDED = 60  # times that a larger one may be smaller when packed; CVAT's XML of 1,489 boxes is 14 times


@dataclass(frozen=True)
class ExportResult:
    """folder: what was written. images, boxes and issues in it. left_out: boxes too small to be drawn; without_picture: images."""

    folder: Path
    images: int
    boxes: int
    issues: int
    left_out: int = 0
    without_picture: int = 0


def export_run(run: Run, to: str, out: Path | None = None, *, images: str = "open") -> ExportResult:
    """The run's labels and issues for a tool, in a folder: RUN/handover/TOOL where `out` is None.

    images: those with an undecided issue (open), with any (issues), or all. An earlier export is replaced as a whole. Raises ConfigError
    for an unknown tool, and DatasetError where the folder holds anything else.
    """
    if to not in TOOLS:
        raise ConfigError(f"--to {to}: is none of {', '.join(TOOLS)}")
    if images not in CHOICES:
        raise ConfigError(f"--images {images}: is none of {', '.join(CHOICES)}")
    final = Path(os.path.abspath(out if out is not None else run.folder / "handover" / to))
    check_replaceable(final)
    decisions = read_decisions(run.folder)
    sheet = make_sheet(run, decisions, images)
    listed = select_issues(run, sheet)
    beside = final.with_name(final.name + ".partial")
    if beside.exists():
        check_replaceable(beside, whole=False)
        shutil.rmtree(beside)
    beside.mkdir(parents=True)
    write_whole(beside / MARKER, orjson.dumps({"detclean": __version__, "to": to, "files": {}}))
    if to == "csv":
        write_csv_sheet(listed, decisions, beside)
    else:
        _write(run, sheet, to, beside, final)
    write_whole(beside / MARKER, orjson.dumps({"detclean": __version__, "to": to, "files": digest_files(beside)}))
    _replace(final, beside)
    if to == "csv":  # no boxes but issues, be they decided or not
        return ExportResult(final, listed["image_index"].n_unique(), listed.height, listed.height)
    issues = sheet.boxes["issue_type"].count()
    return ExportResult(final, sheet.images.height, sheet.boxes.height, issues, sheet.left_out, sheet.images["path"].null_count())


def _write(run: Run, sheet: Sheet, to: str, folder: Path, final: Path) -> None:
    if to == "labelstudio":
        write_labelstudio(sheet, folder, run.folder)
    elif to == "cvat":
        write_cvat(sheet, folder, run.folder)
    elif to == "fiftyone":
        write_fiftyone(sheet, folder, final, run.folder)
    elif to == "coco":
        write_coco_sheet(sheet, folder, run.dataset)
    elif to == "yolo":
        write_yolo_sheet(sheet, folder, final)
    else:
        write_voc_sheet(sheet, folder)


# The folder


def check_replaceable(folder: Path, *, whole: bool = True) -> None:
    """Raises DatasetError where a folder holds anything but an unchanged export. whole: one that was written to its end."""
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir() or folder.is_symlink():
        raise DatasetError(f"{folder}: is no folder of its own; name another with --out")
    names = {path.name for path in folder.iterdir()}
    if not names:
        return
    try:
        told = orjson.loads((folder / MARKER).read_bytes())["files"]
        known = {name: told[name] for name in told}
    except (OSError, ValueError, TypeError, KeyError):
        raise DatasetError(f"{folder}: holds files that are no export of detclean; name another folder with --out") from None
    if not whole:
        return
    here = digest_files(folder)
    if changed := sorted(name for name in here if here[name] != known.get(name, "")):
        raise DatasetError(f"{folder / changed[0]}: was not left as detclean wrote it; move it away, or name another folder with --out")


def digest_files(folder: Path) -> dict[str, str]:
    """A digest of every file in a folder and below, without the marker; of a link only where it leads."""
    digests = {}
    for here, folders, files in os.walk(folder):
        for path in (Path(here) / name for name in (*folders, *files)):
            if path.is_symlink():
                digests[path.relative_to(folder).as_posix()] = f"link to {os.readlink(path)}"
            elif path.is_file() and path != folder / MARKER:
                with open(path, "rb") as f:
                    digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(f, _digest).hexdigest()
    return dict(sorted(digests.items()))


def _digest() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16)


def _replace(final: Path, beside: Path) -> None:
    """The new folder in the place of the old one, which goes last."""
    if not final.exists():
        os.replace(beside, final)
        return
    old = final.with_name(final.name + ".old")
    if old.exists():
        check_replaceable(old)
        shutil.rmtree(old)
    os.replace(final, old)
    os.replace(beside, final)
    shutil.rmtree(old)


# Back


def import_decisions(run: Run, path: str | Path) -> ImportResult:
    """What a person did in a tool's file becomes decisions of the run; importing the same file again adds nothing.

    path: Label Studio's JSON export, CVAT for images 1.1 (.xml, or the .zip with it), or a COCO file. Raises DatasetError in one line
    where it is none of these, is damaged, or names images or categories that the run does not have.
    """
    path = Path(path)
    returned = read_returned(path)
    decisions, result = compare(run, read_decisions(run.folder), returned)
    if decisions:
        DecisionLog(run.folder).append(decisions)
    return result


def read_returned(path: Path) -> Returned:
    """A tool's file, its kind told by its content. Raises DatasetError."""
    if path.is_dir():
        raise DatasetError(f"{path}: is a folder; name the exported file: {EXPECTED}")
    try:
        require_plain(path)
        with open(path, "rb") as f:
            head = f.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n")
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); name {EXPECTED}") from None
    if head.startswith(b"PK\x03\x04"):
        return _read_zip(path)
    if head.startswith((b"<", b"\xff\xfe", b"\xfe\xff")):
        return read_cvat(path.read_bytes(), path)
    if not head.startswith((b"[", b"{")):
        raise DatasetError(f"{path}: is neither JSON nor XML; name {EXPECTED}")
    document: Any = load_json(path)
    if isinstance(document, list):
        if document and all(isinstance(record, dict) and {"bbox", "image_id"} <= record.keys() for record in document[:3]):
            raise DatasetError(f"{path}: is a list of detections, as COCO results are; name {EXPECTED}")
        return read_labelstudio(document, path)
    if isinstance(document, dict) and {"images", "annotations", "categories"} & document.keys():
        return read_coco_sheet(document, path)
    raise DatasetError(f"{path}: is JSON of another kind; name {EXPECTED}")


EXPECTED = "Label Studio's JSON export, CVAT's XML (CVAT for images 1.1) or a COCO file"


def _read_zip(path: Path) -> Returned:
    """CVAT for images 1.1 as it comes: a .zip with annotations.xml, and pictures maybe."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if info.filename.lower().endswith(".xml")]
            if len(members) != 1:
                raise DatasetError(f"{path}: holds {len(members)} .xml files, not one; unpack it and name {EXPECTED}")
            told, packed = members[0].file_size, members[0].compress_size  # Python unpacks no more than is told
            if told > LARGEST_MEMBER or told > max(SMALL_MEMBER, MOST_FOLDED * packed):
                what = f"{members[0].filename!r} unfolds from {packed:,} to {told:,} bytes"
                raise DatasetError(f"{path}: {what}; unpack it, look at it, and name {EXPECTED}")
            return read_cvat(archive.read(members[0]), path)
    except DAMAGED as error:
        raise DatasetError(f"{path}: cannot be unpacked ({error}); download it again, or unpack it and name its annotations.xml") from None
