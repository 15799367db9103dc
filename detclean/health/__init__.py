"""The health of a data set after a run: how good its labels are, what is wrong with its pictures and splits, where errors gather."""

from detclean.health.document import FILE_NAME, measure_health, open_groupings, read_health, write_health

__all__ = ["FILE_NAME", "measure_health", "open_groupings", "read_health", "write_health"]
