"""Every way of finding a ticket, one file a family, all with the same interface."""

from typing import Any

from tombola.finders.along import Along
from tombola.finders.base import Finder
from tombola.finders.continuous import ContinuousSparsification
from tombola.finders.cts import CTS
from tombola.finders.edge_popup import EdgePopup
from tombola.finders.gradual import Gradual
from tombola.finders.grasp import GraSP, GraSPMagnitude
from tombola.finders.joint import Joint
from tombola.finders.magnitude import Magnitude
from tombola.finders.random import Random
from tombola.finders.rewinding import IMP, LTR
from tombola.finders.saliency import FORCE, SNIP, ObjectiveSaliency, ProsPr
from tombola.finders.synflow import SynFlow

FINDERS: dict[str, Any] = {
    kind.name: kind
    for kind in (
        CTS,
        Joint,
        Random,
        Magnitude,
        SNIP,
        GraSP,
        GraSPMagnitude,
        SynFlow,
        FORCE,
        ProsPr,
        ObjectiveSaliency,
        Gradual,
        LTR,
        IMP,
        ContinuousSparsification,
        EdgePopup,
    )
}


def usual_batch_size(name: str) -> int:
    """Return the samples of a search's step, or of a score's batch, of a finder.

    64 for CTS: masks are noisier than batches, so that more samples a step cost more and find no better tickets.
    """
    return 64 if name == CTS.name else 512


__all__ = [
    "CTS",
    "FINDERS",
    "FORCE",
    "IMP",
    "LTR",
    "SNIP",
    "Along",
    "ContinuousSparsification",
    "EdgePopup",
    "Finder",
    "GraSP",
    "GraSPMagnitude",
    "Gradual",
    "Joint",
    "Magnitude",
    "ObjectiveSaliency",
    "ProsPr",
    "Random",
    "SynFlow",
    "usual_batch_size",
]
