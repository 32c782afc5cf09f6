"""What a finder is, and what it needs of a run."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from tombola.core.allocation import ALLOCATIONS, Allocation, Global
from tombola.core.flat import Layout
from tombola.core.granularity import GRANULARITIES, GRANULARITY_HELP, Granularity, Weight
from tombola.core.parts import COUNT, Part, guarded, option, written_name
from tombola.core.selection import Density, Selection, parse_densities
from tombola.errors import UsageError
from tombola.finders.problem import Problem
from tombola.networks.masking import named_parameters
from tombola.networks.network import FrozenNetwork, vector_dtype
from tombola.networks.task import Batch
from tombola.sparse.channels import follow, gated_along
from tombola.sparse.choice import first_inputs
from tombola.ticket import Ticket
from tombola.training import State


@dataclass(frozen=True)
class Needs:
    """What a finder needs of a run.

    samples: of the batches that it searches or scores on. batches: how many it looks at, at most. trains: whether it
    trains the weights, so that its tickets depend on how. own_training: whether a training function of the user's own
    may do that. at: at which weights it can be drawn, of "init", "rewind", "trained" and "given". task: which parts of
    the task it uses. dense: whether it asks for the dense network trained to the end. teacher: whether it asks for
    stored outputs of the network at the weights where it is drawn.
    """

    samples: int = 512
    batches: int = 1
    trains: bool = False
    own_training: bool = True
    at: tuple[str, ...] = ("rewind", "init", "trained", "given")
    task: tuple[str, ...] = ()
    dense: bool = False
    teacher: bool = False

    def check_at(self, finder: str, at: str) -> None:
        """Raise UsageError where the finder cannot be drawn."""
        if at not in self.at:
            allowed = " or ".join(place for place in self.at if place != "given")
            raise UsageError(f"must be {allowed} for the finder {finder}, got {at}", option="draw_at")


def search_batch_size(default: int, **more: Any) -> Any:
    """Return the option of finders that look at batches, at its default."""
    help_ = "samples a step of the search, or of a score's batch"
    return option(default, help_, must=COUNT, flag="search-batch-size", group="search", **more)


@dataclass(frozen=True)
class Drawn:
    """What a finder found.

    ticket: the masks, their scores and where they come from. rows: of metrics, recorded on the way. start: the state
    that the ticket is to be trained from, where that is not the one that it was drawn at. kept: the sparse network at
    the end of the finder's own training, where it has one: another product than the ticket, which trains anew.
    """

    ticket: Ticket
    rows: list[dict[str, Any]]
    start: State | None = None
    kept: State | None = None


@runtime_checkable
class Finds(Protocol):
    """What any finder must have; a frozen dataclass whose fields are its options."""

    def draw(self, problem: Problem, density: Density) -> Drawn:
        """Return the ticket of one density, in (0, 1], or of densities by pattern."""


def allocation_option(default: Allocation) -> Any:
    """Return the option of how kept weights are spread over layers, at a finder's default."""
    help_ = (
        "how kept weights are spread over layers: global (ranked together), uniform (layers alike), "
        "erk (small layers denser)"
    )
    return option(default, help_, family=ALLOCATIONS, group="ticket", kw_only=True)


@dataclass(frozen=True)
class Finder(Part):
    """Base of the finders: a ticket of exactly k weights at the problem's weights.

    allocation: how the weights kept are spread over the layers. granularity: which are kept or pruned together. A
    finder of one's own may do without this base, as a frozen dataclass with a `draw` like this one's.
    """

    # Whether it does its work where several processes divide each batch: it takes gradients by `Portion.gradient`, or
    # looks at no batch. Each class says so for itself.
    divides: ClassVar[bool] = False

    allocation: Allocation = allocation_option(Global())
    granularity: Granularity = option(Weight(), GRANULARITY_HELP, family=GRANULARITIES, group="ticket", kw_only=True)

    def needs(self) -> Needs:
        """Return what it needs of a run."""
        return Needs()

    def check(self, network: FrozenNetwork, batch: Batch) -> None:
        """Raise UsageError where it cannot do with a network, which takes such batches."""

    def check_epochs(self, start: int, epochs: int) -> None:
        """Raise UsageError where it cannot be drawn at an epoch of a training of so many."""

    def holding(self) -> dict[str, Any]:
        """Return what an identity holds of how layers are searched where nothing is to be chosen, if that changed."""
        return {}

    def grouping(self) -> dict[str, Any]:
        """Return what an identity holds of how groups of different sizes are kept, if that changed."""
        return {}

    def freezing(self) -> dict[str, Any]:
        """Return what an identity holds of how frozen layers are treated, if that changed."""
        return {}

    def selection(self, problem: Problem, density: Density) -> Selection:
        """Return what is kept at a density."""
        return selection_of(self, problem.layout, density)

    def stages(self, density: float) -> int:
        """Return how many pieces of the way to a density are on the way to smaller ones too."""
        return 0

    def advance(self, problem: Problem, density: Density, stages: int) -> None:
        """Do so many of these pieces, which the store keeps for all densities."""

    def teach(self, problem: Problem) -> None:
        """Have the store keep the network's outputs, where the finder asks for them."""

    def draw(self, problem: Problem, density: Density) -> Drawn:
        """Return the ticket of one density."""
        raise NotImplementedError


def needs_of(finder: Any) -> Needs:
    """Return what any finder needs of a run, the usual where it does not say."""
    if not hasattr(finder, "needs"):
        return Needs()
    with guarded("finder", finder):
        needs: Needs = finder.needs()
    if not isinstance(needs, Needs):
        words = f"must return tombola.finders.Needs from needs, got {type(needs).__name__}"
        raise UsageError(f"{written_name(finder)!r} {words}", option="finder")
    return needs


def check_divides(finder: Any, processes: int) -> None:
    """Raise UsageError where a finder would look at a part of each batch and take it for all."""
    if processes > 1 and not vars(type(finder)).get("divides", False):
        raise UsageError(
            f"{written_name(finder)!r} does not say that it can divide batches over {processes} processes (divides = "
            "True); take one",
            option="finder",
        )


def selection_of(finder: Any, layout: Layout, density: Density) -> Selection:
    """Return what any finder keeps of a layout's weights at a density; raises UsageError where that is nothing."""
    chosen = (finder.allocation, finder.granularity) if isinstance(finder, Finder) else ()
    selection = Selection(layout, parse_densities(density), *chosen)
    _ = selection.pools
    return selection


def followed(finder: Any, model: nn.Module, layout: Layout, example: Callable[[], Any]) -> Layout:
    """Return a layout that says which channels go together, where a finder's granularity asks for that.

    example: gives what the model is called with. Raises UsageError for a model whose channels cannot be followed.
    """
    if not getattr(getattr(finder, "granularity", None), "coupled", False):
        return layout
    inputs = example()
    if isinstance(inputs, Tensor):
        inputs = inputs.to(next(model.parameters()).device)
    return follow(model, layout, inputs)


def following(finder: Any, problem: Problem) -> Problem:
    """Return a problem with the layout that a finder's granularity asks for."""
    layout = followed(finder, problem.model, problem.layout, lambda: first_inputs(problem.task, problem.feed))
    return replace(problem, layout=layout)


def silences(finder: Any) -> bool:
    """Whether a finder's tickets prune channels whole, with their biases and normalisation."""
    return bool(getattr(getattr(finder, "granularity", None), "silent", False))


def gated_beside(finder: Any, problem: Problem) -> dict[str, Tensor]:
    """Return which biases, scales and shifts the gates of a finder's channels are on beside the weights, and where.

    See `tombola.sparse.channels.gated_along`; nothing where its tickets do not prune channels whole.
    """
    if not silences(finder):
        return {}
    try:
        example = first_inputs(problem.task, problem.feed)
        return gated_along(problem.model, problem.layout, example, finder.granularity.coupled)
    except UsageError as error:
        problem.progress.say(f"gates leave biases and normalisation alone: {error.message}")
        return {}


def workings_of(finder: Any, selection: Selection, model: nn.Module, device: torch.device) -> dict[str, Any]:
    """Return what an identity holds, beside a finder's options, of how it works on a model at a selection."""
    arithmetic = arithmetic_of(finder, selection, model, device)
    groups = holding_of(finder, selection) | grouping_of(finder, selection)
    return arithmetic | groups | freezing_of(finder, selection.layout, model)


def arithmetic_of(finder: Any, selection: Selection, model: nn.Module, device: torch.device) -> dict[str, Any]:
    """Return what an identity holds of how a finder computes, where one machine does it otherwise than another."""
    if selection.decided or selection.groups.sizes is not None or not hasattr(finder, "arithmetic"):
        return {}
    dtype = vector_dtype(model, selection.layout)
    found: dict[str, Any] = finder.arithmetic(selection.groups.layout().total, device, dtype)
    return found


def holding_of(finder: Any, selection: Selection) -> dict[str, Any]:
    """Return what an identity holds of how a finder holds layers of which all is kept, or nothing, beside others."""
    some = any(pool.decided for pool in selection.pools) and not selection.decided
    return finder.holding() if some and isinstance(finder, Finder) else {}


def grouping_of(finder: Any, selection: Selection) -> dict[str, Any]:
    """Return what an identity holds of how groups are kept, where that is otherwise than at first."""
    exact = {"fixed": "exact"} if selection.is_written_short else {}
    return exact | (finder.grouping() if isinstance(finder, Finder) and selection.is_uneven else {})


def freezing_of(finder: Any, layout: Layout, model: nn.Module) -> dict[str, Any]:
    """Return what an identity holds of how a finder treats frozen layers, where some of a layout's are."""
    some = any(name in layout.names and not weight.requires_grad for name, _, weight in named_parameters(model))
    return finder.freezing() if some and isinstance(finder, Finder) else {}
