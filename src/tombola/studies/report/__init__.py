"""A comparison as one page: what was compared, what was found, and everything that it rests on."""

from tombola.studies.report.page import report

__all__ = ["report"]
