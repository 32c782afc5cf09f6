"""Studies: many cells, planned, run and put into one table."""

from tombola.studies.plan import StudyCell, plan
from tombola.studies.runner import CellOutcome, failures, measure_dynamics, run_all
from tombola.studies.table import Row, summary, tabulate, write_tables

__all__ = [
    "CellOutcome",
    "Row",
    "StudyCell",
    "failures",
    "measure_dynamics",
    "plan",
    "run_all",
    "summary",
    "tabulate",
    "write_tables",
]
