"""Every way of finding a ticket, one file a family, all with the same interface."""

from tombola.finders.base import Drawn, Finder, Finds, Needs, draw, drawn, is_finder, needs_of, selection_of
from tombola.finders.continuous import ContinuousSparsification
from tombola.finders.cts import CTS
from tombola.finders.edge_popup import EdgePopup
from tombola.finders.gradual import Gradual
from tombola.finders.grasp import GraSP, GraSPMagnitude
from tombola.finders.joint import Joint
from tombola.finders.magnitude import Magnitude
from tombola.finders.random import Random
from tombola.finders.ranked import Ranked
from tombola.finders.rewinding import IMP, LTR
from tombola.finders.saliency import FORCE, SNIP, ObjectiveSaliency, ProsPr
from tombola.finders.synflow import SynFlow
from tombola.written import Family

FINDERS: Family[Finds] = Family(
    "finder",
    {
        kind.name: kind()
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
    },
    is_finder,
)

__all__ = [
    "CTS",
    "FINDERS",
    "FORCE",
    "IMP",
    "LTR",
    "SNIP",
    "ContinuousSparsification",
    "Drawn",
    "EdgePopup",
    "Finder",
    "Finds",
    "GraSP",
    "GraSPMagnitude",
    "Gradual",
    "Joint",
    "Magnitude",
    "Needs",
    "ObjectiveSaliency",
    "ProsPr",
    "Random",
    "Ranked",
    "SynFlow",
    "draw",
    "drawn",
    "needs_of",
    "selection_of",
]
