"""The audit of a ticket: whether it says something about its weights, or only how dense each layer is."""

from tombola.audit.report import Check, Report
from tombola.audit.run import audit

__all__ = ["Check", "Report", "audit"]
