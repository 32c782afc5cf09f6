"""Studies: many cells, planned, run and put into one table."""

from tombola.studies.plan import Member, plan
from tombola.studies.runner import Outcome, failures, run_all
from tombola.studies.table import Row, tabulate

__all__ = ["Member", "Outcome", "Row", "failures", "plan", "run_all", "tabulate"]
