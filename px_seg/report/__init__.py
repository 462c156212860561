"""The report of a sweep: a CSV, a Markdown table, figures, and one page that needs nothing beside it."""

from px_seg.report.reading import read_runs
from px_seg.report.write import report

__all__ = ["read_runs", "report"]
