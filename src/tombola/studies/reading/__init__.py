"""A comparison read back from its directory: rows, data frames, and answers to what is asked of it."""

from tombola.studies.reading.questions import EqualCost, Fall, equal_cost, falls
from tombola.studies.reading.study import Study, read

__all__ = ["EqualCost", "Fall", "Study", "equal_cost", "falls", "read"]
