"""detclean finds wrong labels in object-detection data sets and helps people put them right.

From Python: `read_dataset`, `read_detections`, `find_issues`, `write_issues`, and the types `Dataset` and `Boxes`. Names are imported when
they are first used, so that `import detclean` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.6.0"

if TYPE_CHECKING:
    from detclean.boxes import Boxes as Boxes
    from detclean.dataset import Dataset as Dataset
    from detclean.formats import read_dataset as read_dataset
    from detclean.formats.results import read_detections as read_detections
    from detclean.score import find_issues as find_issues
    from detclean.show.issue_lists import write_issues as write_issues

_HOMES = {
    "Boxes": "detclean.boxes",
    "Dataset": "detclean.dataset",
    "find_issues": "detclean.score",
    "read_dataset": "detclean.formats",
    "read_detections": "detclean.formats.results",
    "write_issues": "detclean.show.issue_lists",
}
__all__ = sorted([*_HOMES, "__version__"])  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'detclean' has no attribute '{name}'")
