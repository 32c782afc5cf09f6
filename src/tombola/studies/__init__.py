"""Studies: many cells, planned, run and put into one table.

The names are looked up on first use: a finished study is read without what trains.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tombola.studies.outcome import CellOutcome, failures
    from tombola.studies.planning import StudyCell, plan
    from tombola.studies.reading import Study, read
    from tombola.studies.runner import run_all, run_study
    from tombola.studies.study import StudyPlan, read_study
    from tombola.studies.table import Row, summary, tabulate, write_tables

_HOMES = {
    "CellOutcome": "outcome",
    "Row": "table",
    "Study": "reading",
    "StudyCell": "planning",
    "failures": "outcome",
    "plan": "planning",
    "read": "reading",
    "read_study": "study",
    "run_all": "runner",
    "run_study": "runner",
    "StudyPlan": "study",
    "summary": "table",
    "tabulate": "table",
    "write_tables": "table",
}

__all__ = [
    "CellOutcome",
    "Row",
    "Study",
    "StudyCell",
    "StudyPlan",
    "failures",
    "plan",
    "read",
    "read_study",
    "run_all",
    "run_study",
    "summary",
    "tabulate",
    "write_tables",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tombola.studies' has no attribute {name!r}")
    return getattr(import_module(f"tombola.studies.{_HOMES[name]}"), name)
