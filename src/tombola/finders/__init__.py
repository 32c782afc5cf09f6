"""Every way of finding a ticket, one file a family, all with the same interface; a new one is a line here."""

from collections.abc import Iterable

from tombola.core.written import Family
from tombola.finders.acdc import ACDC as ACDC
from tombola.finders.base import Drawn as Drawn
from tombola.finders.base import Finder as Finder
from tombola.finders.base import Finds as Finds
from tombola.finders.base import Needs as Needs
from tombola.finders.base import arithmetic_of as arithmetic_of
from tombola.finders.base import check_divides as check_divides
from tombola.finders.base import followed as followed
from tombola.finders.base import following as following
from tombola.finders.base import freezing_of as freezing_of
from tombola.finders.base import grouping_of as grouping_of
from tombola.finders.base import holding_of as holding_of
from tombola.finders.base import needs_of as needs_of
from tombola.finders.base import selection_of as selection_of
from tombola.finders.base import silences as silences
from tombola.finders.base import workings_of as workings_of
from tombola.finders.continuous import ContinuousSparsification as ContinuousSparsification
from tombola.finders.cts import CTS as CTS
from tombola.finders.drawing import draw as draw
from tombola.finders.drawing import drawn as drawn
from tombola.finders.edge_popup import EdgePopup as EdgePopup
from tombola.finders.gem_miner import GemMiner as GemMiner
from tombola.finders.gradual import Gradual as Gradual
from tombola.finders.granet import GraNet as GraNet
from tombola.finders.grasp import GraSP as GraSP
from tombola.finders.grasp import GraSPMagnitude as GraSPMagnitude
from tombola.finders.joint import Joint as Joint
from tombola.finders.lrr import LRR as LRR
from tombola.finders.magnitude import Magnitude as Magnitude
from tombola.finders.origins import ORIGINS as ORIGINS
from tombola.finders.origins import origin as origin
from tombola.finders.problem import Problem as Problem
from tombola.finders.random import Random as Random
from tombola.finders.ranked import Ranked as Ranked
from tombola.finders.rewinding import IMP as IMP
from tombola.finders.rewinding import LTR as LTR
from tombola.finders.saliency import FORCE as FORCE
from tombola.finders.saliency import SNIP as SNIP
from tombola.finders.saliency import ObjectiveSaliency as ObjectiveSaliency
from tombola.finders.saliency import ProsPr as ProsPr
from tombola.finders.second_order import Fisher as Fisher
from tombola.finders.second_order import FisherTaylor as FisherTaylor
from tombola.finders.second_order import Hutchinson as Hutchinson
from tombola.finders.second_order import HutchinsonTaylor as HutchinsonTaylor
from tombola.finders.sparse_training import GROWTHS as GROWTHS
from tombola.finders.sparse_training import SET as SET
from tombola.finders.sparse_training import RigL as RigL
from tombola.finders.synflow import SynFlow as SynFlow


def _named(values: Iterable[object]) -> list[type[Finder]]:
    return [value for value in values if isinstance(value, type) and issubclass(value, Finder) and value.name]


FINDERS: Family[Finds] = Family(
    "finder",
    {
        kind.name: kind()
        # The heart first, the rest by the alphabet.
        for kind in sorted(_named(vars().values()), key=lambda kind: (kind is not CTS, kind.name))
    },
    Finds,
)
