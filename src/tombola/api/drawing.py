"""preview() and draw()."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from tombola.api.asked import Data, announced, batch_size_of, check_kind, check_seed, device_of, divided, finder_of
from tombola.core.controllers import Controller
from tombola.core.granularity import Granularity
from tombola.core.progress import Silent, progress_on
from tombola.core.ranks import ranks_of
from tombola.core.selection import Density
from tombola.data import feed_of
from tombola.finders import Finds, diagnostics, needs_of, selection_of
from tombola.finders import draw as draw_ticket
from tombola.finders.problem import Problem
from tombola.networks.masking import Patterns, Survey, survey, unwrap
from tombola.networks.probe import settle
from tombola.networks.runtime import Runtime, ready_to_train
from tombola.networks.task import Task
from tombola.objectives import MaskedBatch, Objective
from tombola.ticket import Ticket
from tombola.training import State


def preview(model: nn.Module, *, include: Patterns = "*", exclude: Patterns = ()) -> Survey:
    """List what would be pruned of a model, with counts, and why the rest would not.

    include, exclude: glob patterns of parameter names; see `draw`. Printing the result gives a table.
    """
    return survey(model, include, exclude)


def draw(
    model: nn.Module,
    data: Data,
    *,
    density: Density,
    steps: int | None = None,
    objective: Objective | Callable[[MaskedBatch], Tensor] | str | None = None,
    controller: Controller | str | None = None,
    granularity: Granularity | str | None = None,
    finder: Finds | str | None = None,
    seed: int = 0,
    task: Task | None = None,
    include: Patterns = "*",
    exclude: Patterns = (),
    precision: str = "auto",
    batch_size: int | None = None,
    held_out: Data | None = None,
    fabric: Any = None,
    progress: bool = True,
) -> Ticket:
    """Draw a ticket from a model at its present weights, by Concrete Ticket Search.

    model: any module; it is not changed in any way. data: an iterable of (inputs, targets) batches, or of whatever
    `task` understands, or a map-style torch Dataset, which is cut into shuffled batches of `batch_size` (64 for
    CTS, else 512); a list of batches or a TensorDataset is best, since the dense network's outputs are then computed
    once only. density: the fraction of prunable weights to keep, in (0, 1], or fractions by patterns of names, of which
    the first that matches a layer counts: {"head.*": 1.0, "*": 0.05}. steps: length of the search (1960 by default).
    objective: one in `tombola.objectives`, by name or as an object, or a function of a MaskedBatch; by default loss
    where the network has not learned anything yet, else reverse-kl. controller: ProportionalBalance by default.
    granularity: which weights are kept or pruned together, such as "channel", "block:4x4" or "2:4"; each by itself by
    default. finder: another finder, an object or as it is written, such as "snip:rounds=10", in place of steps,
    objective and controller. include, exclude: glob patterns of parameter names; an exact name in `include` takes in
    what the rule leaves out. precision: "auto" (bf16 for convolutional models where the hardware has it), "32-true" or
    "bf16-mixed", whatever torch.autocast the call stands in. held_out: data like `data` that the search does not see,
    on which its ticket is looked at. fabric: a lightning_fabric.Fabric, launched with the strategy ddp: its processes,
    all of which call this with the same model and all of the data, divide each batch, and get the same ticket.
    progress: show a bar.

    Returns a Ticket that keeps exactly floor(density * prunable + 1/2) weights, or as many as whole groups allow.
    Issues a TicketWarning for each sign that something is off. Raises UsageError for input that cannot be used,
    SearchError when numbers break down.
    """
    with ready_to_train():
        ranks = ranks_of(fabric)
        checked = survey(model, include, exclude)
        check_kind("task", task, Task)
        runtime = Runtime.choose(model, device_of(model, fabric), precision, ranks=ranks)
        check_seed(seed)
        search = finder_of(finder, {"steps": steps, "objective": objective, "controller": controller}, granularity)
        selection_of(search, checked.layout, density)
        samples, needs = batch_size_of(batch_size, search), needs_of(search)
        # Of a generator no more than it takes to search, and to look at the ticket.
        feed = feed_of(data, seed, samples, most=max(needs.batches, diagnostics.BATCHES))
        held_out_feed = None if held_out is None else feed_of(held_out, seed, samples, name="held_out")
        task, spoilt = settle(
            model, checked.layout, task, {"data": feed, "held_out": held_out_feed}, runtime, needs.task
        )
        runtime = runtime.with_safe_precision(spoilt, precision)
        runtime = divided(runtime, search, model, checked.layout, task, (feed,), needs.task)
        problem = Problem(
            model=unwrap(model),
            layout=checked.layout,
            task=task,
            feed=feed,
            # Its own, not copies: nothing changes the model as long as this runs.
            weights=State.at(unwrap(model)),
            seed=seed,
            runtime=runtime,
            progress=progress_on() if progress and ranks.leads else Silent(),
            held_out=held_out_feed,
        )
        return announced(draw_ticket(search, problem, density), ranks).ticket
