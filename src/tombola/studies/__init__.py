"""Studies: many cells, planned, run and put into one table."""

from tombola.studies.plan import StudyCell, plan
from tombola.studies.runner import CellOutcome, failures, run_all, run_study
from tombola.studies.study import Study, read_study
from tombola.studies.table import Row, summary, tabulate, write_tables

__all__ = [
    "CellOutcome",
    "Row",
    "Study",
    "StudyCell",
    "failures",
    "plan",
    "read_study",
    "run_all",
    "run_study",
    "summary",
    "tabulate",
    "write_tables",
]
