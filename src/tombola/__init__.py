"""tombola draws winning lottery tickets: sparse subnetworks that train, alone, almost like the dense network.

The public names are looked up on first use (PEP 562), so `import tombola` itself imports no torch.
"""

from importlib import import_module

from tombola.version import __version__

TYPE_CHECKING = False  # for type checkers it is true; `typing` itself is a third of what the command line loads

if TYPE_CHECKING:
    from typing import Any

    from tombola.api import Sparsified, draw, preview, sparsify
    from tombola.core.controllers import GradBalance, Lagrangian, ProportionalBalance
    from tombola.core.parts import Part, option
    from tombola.errors import SearchError, TicketWarning, TombolaError, UsageError
    from tombola.finders import CTS, Random
    from tombola.networks.task import Task
    from tombola.studies.comparison import compare, study
    from tombola.ticket import Ticket
    from tombola.training import Job, Recipe

_HOMES = {
    "CTS": "finders",
    "GradBalance": "core.controllers",
    "Job": "training",
    "Lagrangian": "core.controllers",
    "Part": "core.parts",
    "ProportionalBalance": "core.controllers",
    "Random": "finders",
    "Recipe": "training",
    "SearchError": "errors",
    "Sparsified": "api",
    "Task": "networks.task",
    "Ticket": "ticket",
    "TicketWarning": "errors",
    "TombolaError": "errors",
    "UsageError": "errors",
    "compare": "studies.comparison",
    "study": "studies.comparison",
    "draw": "api",
    "option": "core.parts",
    "preview": "api",
    "sparsify": "api",
}

# Rooms and modules that are there without being imported: tombola.controllers.GradBalance.
_MODULES = (
    "allocation",
    "concrete",
    "controllers",
    "data",
    "finders",
    "granularity",
    "objectives",
    "studies",
    "task",
    "ticket",
    "training",
)

__all__ = [
    "CTS",
    "GradBalance",
    "Job",
    "Lagrangian",
    "Part",
    "ProportionalBalance",
    "Random",
    "Recipe",
    "SearchError",
    "Sparsified",
    "Task",
    "Ticket",
    "TicketWarning",
    "TombolaError",
    "UsageError",
    "__version__",
    "compare",
    "draw",
    "option",
    "preview",
    "sparsify",
    "study",
]


def __getattr__(name: str) -> "Any":
    if name in _MODULES:
        return import_module(f"tombola.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'tombola' has no attribute {name!r}")
    return getattr(import_module(f"tombola.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
