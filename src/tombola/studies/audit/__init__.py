"""The audit of a ticket: whether it says something about its weights, or only how dense each layer is."""

from tombola.studies.audit.report import Check, Report
from tombola.studies.audit.run import audit

__all__ = ["Check", "Report", "audit"]
