"""Which networks train sparse: by a fixed rule on the model, the density and the device."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tombola.core.compiling import numba_works
from tombola.core.flat import Layout
from tombola.core.parts import is_own, written_name
from tombola.core.seeds import seeded
from tombola.data import Feed
from tombola.errors import TombolaError, UsageError, in_words
from tombola.networks.masking import check_masks, pruned_of, zero_
from tombola.networks.network import private_copy
from tombola.networks.task import Task
from tombola.sparse.rules import is_faster_sparse

if TYPE_CHECKING:
    from tombola.sparse.network import SparseNetwork

EXECUTIONS = ("auto", "sparse", "dense")
# Raised when the same sparse training trains otherwise.
VERSION = 2


def execution_identity(execution: str) -> dict[str, Any]:
    """Return what of an execution belongs to the name of a result: nothing where it is dense."""
    return {"execution": [execution, VERSION]} if execution != "dense" else {}


def against_sparse(device: torch.device, clip_norm: float | None, own_training: bool, optimizer: object = None) -> str:
    """Return why tickets cannot train sparse, whatever the network; nothing where they can."""
    if device.type != "cpu":
        return f"the device is {device.type}, not cpu"
    if clip_norm is not None:
        return "clip_norm is of the whole gradient, pruned weights included, which takes a dense step"
    if optimizer is not None and getattr(optimizer, "by_shape", is_own(optimizer)):
        name = written_name(optimizer)
        return f"the optimizer {name} may tell weights by their shapes, which kept values alone have not"
    return "fit trains, not the recipe" if own_training else ""


def choose(
    execution: str,
    model: nn.Module,
    layout: Layout,
    density: float,
    example: Callable[[], Any],
    samples: int,
    against: str = "",
    step: Callable[[nn.Module], Tensor] | None = None,
) -> tuple[str, str]:
    """Return "sparse" or "dense", and a sentence for the user where there is something to say.

    execution: what was asked for. density: of the ticket. example: gives inputs (N, ...); anything else cannot
    run sparse. samples: a step. against: what else speaks against a sparse training. step: gives a network's loss on a
    batch, as a training asks for it. Raises UsageError where "sparse" was asked for and cannot be.
    """
    if execution not in EXECUTIONS:
        raise UsageError(f"{execution!r} is unknown; allowed are {', '.join(EXECUTIONS)}", option="execution")
    if execution == "dense" or (execution == "auto" and (against or not numba_works())):
        return "dense", ""
    reason = against or ("numba is missing: pip install 'tombola[fast]'" if not numba_works() else "")
    faster = True
    if not reason:
        reason, faster = _tried(model, layout, density, example(), samples, execution == "sparse", step)
    if execution == "sparse" and reason:
        raise UsageError(f"cannot be sparse: {reason}", option="execution")
    if reason:
        return "dense", f"tickets train dense, though numba is there: {reason}"
    if not faster and execution == "auto":
        return "dense", ""
    return "sparse", "tickets train sparse, by their kept weights alone"


def _tried(
    model: nn.Module,
    layout: Layout,
    density: float,
    example: Any,
    samples: int,
    asked: bool,
    step: Callable[[nn.Module], Tensor] | None,
) -> tuple[str, bool]:
    """Return why a model cannot run sparse, if it cannot, and whether it would be faster; asked: it runs so anyway."""
    from tombola.sparse.network import TOLERANCE, SparseNetwork, error_of
    from tombola.sparse.tracing import Untraceable

    if not isinstance(example, Tensor):
        return f"the model's input is {type(example).__name__}, not one tensor", False
    masks, masked = _spread_masks(layout, density), private_copy(model)
    parameters = check_masks(masked, masks)
    zero_(parameters, pruned_of(parameters, masks))
    try:
        network = SparseNetwork(masked, masks, example[:2])
    except Untraceable as error:
        return str(error), False
    faster = is_faster_sparse(network.costs, samples)
    if not faster and not asked:
        return "", False
    off = error_of(network, example[:2])
    if not off < TOLERANCE:
        return f"its outputs would be off by {off:.1g}", faster
    return (_stepped(network, step) if step else ""), faster


def _stepped(network: "SparseNetwork", step: Callable[[nn.Module], Tensor]) -> str:
    """Return why a network, which is ours to change, cannot take a training's step, if it cannot."""
    from tombola.sparse.tracing import in_mode

    network.dense.zero_grad()
    stale = [network.dense.get_parameter(name) for name in network.sparse_names]
    with in_mode(network.dense, True):
        try:
            with seeded(0, "step"):
                loss = step(network)
                loss.backward()
            with torch.no_grad():
                for weight in stale:
                    weight.mul_(2)
            with seeded(0, "step"):
                again = step(network)
        except Exception as error:  # noqa: BLE001 - model, task and data are the user's: anything may come out of them
            why = str(error) if isinstance(error, TombolaError) else in_words(error)
            return f"a step of its training fails ({why})"
    # Kept values train apart from the model: who reads its weights, as a penalty does, reads others than those.
    read = any(weight.grad is not None for weight in stale) or not torch.equal(loss, again)
    return "its loss reads the model's weights, as a penalty does" if read else ""


def _spread_masks(layout: Layout, density: float) -> dict[str, Tensor]:
    """Return masks of one density in each layer, every so many weights."""
    found = {}
    for name, shape in zip(layout.names, layout.shapes, strict=True):
        mask = torch.zeros(shape, dtype=torch.bool, device="cpu")
        mask.view(-1)[:: max(1, round(1 / density))] = True
        found[name] = mask
    return found


class _Seen(Exception):
    """A model was called."""


class _Recorder(nn.Module):
    """Stands in for a model and notes what it is called with."""

    inputs: Any = None

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        self.inputs = args[0] if len(args) == 1 and not kwargs else (args, kwargs)
        raise _Seen


def first_inputs(task: Task, feed: Feed) -> Any:
    """Return what a task calls a model with on the first batch of a feed: one tensor, or else everything."""
    recorder = _Recorder()
    try:
        task.forward(recorder, next(iter(feed.epoch(0))).batch)
    except (_Seen, UsageError):  # which a task of checked parts makes of any error
        return recorder.inputs
    return None


def first_loss(task: Task, feed: Feed, network: nn.Module) -> Tensor:
    """Return a network's loss on the first batch of a feed, on the CPU."""
    batch = next(iter(feed.epoch(0))).batch
    return task.loss(task.forward(network, batch), batch)
