"""report.html: what a run found, in one file that needs nothing else."""

from detclean.report.page import PICTURES, write_report

__all__ = ["PICTURES", "write_report"]
