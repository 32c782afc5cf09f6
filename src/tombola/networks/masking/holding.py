"""Hold a mask in a model: zero the pruned weights once, or after every step of an optimiser."""

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tombola.errors import TicketWarning, UsageError, the_first
from tombola.networks.masking.names import by_canonical_name


def check_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    """Return the parameters that the masks belong to.

    Raises UsageError that lists every mask whose name or shape the model does not have.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"model must be a torch.nn.Module, got {model!r}")
    parameters = by_canonical_name(model)
    problems = [f"{name} is not a parameter of the model" for name in masks if name not in parameters]
    problems += [
        f"{name} has shape {tuple(parameters[name].shape)} in the model and {tuple(mask.shape)} in the ticket"
        for name, mask in masks.items()
        if name in parameters and parameters[name].shape != mask.shape
    ]
    if problems:
        raise UsageError(f"the ticket does not fit the model: {'; '.join(problems)}")
    return {name: parameters[name] for name in masks}  # type: ignore[misc]


def pruned_of(parameters: Mapping[str, nn.Parameter], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what the masks leave out, by name, on the parameters' devices."""
    return {name: ~masks[name].to(parameter.device) for name, parameter in parameters.items()}


@torch.no_grad()
def zero_(parameters: Mapping[str, nn.Parameter], pruned: Mapping[str, Tensor]) -> None:
    """Set every parameter to zero, in place, where `pruned` is True (NaN and infinity included)."""
    for name, parameter in parameters.items():
        parameter.masked_fill_(pruned[name], 0.0)


@torch.no_grad()
def zero_gradients_(parameters: Mapping[str, nn.Parameter], pruned: Mapping[str, Tensor]) -> None:
    """Set the gradients that parameters have to zero, in place, where `pruned` is True."""
    for name, parameter in parameters.items():
        gradient = parameter.grad
        if gradient is None:
            continue
        if gradient.is_sparse:  # rows of an embedding, some of them perhaps several times
            gradient._values().masked_fill_(pruned[name][tuple(gradient._indices())], 0.0)
        else:
            gradient.masked_fill_(pruned[name], 0.0)


def hold(model: nn.Module, optimizer: Optimizer, masks: Mapping[str, Tensor]) -> None:
    """Zero the pruned weights now, and after every step of an optimiser, for as long as that lives.

    For trainings in which nobody else writes to the weights. `Attachment` is for all others: it looks for what came
    alive between steps, which on a GPU waits for the device.
    """
    parameters = check_masks(model, masks)
    pruned = pruned_of(parameters, masks)
    zero_(parameters, pruned)
    optimizer.register_step_post_hook(lambda *_: zero_(parameters, pruned))


# Where wrappers keep the optimiser that they wrap.
INNER = ("optimizer", "base_optimizer", "optim", "inner_optimizer", "_optimizer", "opt")


def chain_of(optimizer: Any) -> list[Any]:
    """Return an optimiser and those that it wraps one in another, outermost first.

    Raises UsageError for what is neither an optimiser of torch nor wraps one.
    """
    chain = [optimizer]
    while True:
        inner = next((found for name in INNER if (found := getattr(chain[-1], name, None)) is not None), None)
        if inner is None or not (isinstance(inner, Optimizer) or hasattr(inner, "param_groups")):
            break
        if any(inner is each for each in chain):
            break
        chain.append(inner)
    if not any(isinstance(each, Optimizer) for each in chain):
        raise UsageError(
            "optimizer must be a torch.optim.Optimizer, or keep the one that it wraps in .optimizer, .base_optimizer "
            f"or .optim, got {optimizer!r}"
        )
    return chain


class Attachment:
    """Keeps a model's pruned weights at zero through every step of its optimisers.

    Momentum and decoupled weight decay move weights whose gradient is zero, so the mask is applied after each step; and
    before it to the gradients, by whose norm or singular values optimisers such as Adafactor and Muon move all weights.
    Optimisers that wrap others are looked through, also those of sharpness-aware training, after whose `first_step` the
    mask is applied too. What comes alive between steps (by load_state_dict, an optimiser that was not given, or
    averages written back) is put back to zero before the next step and at `detach()`, and said once by a TicketWarning.
    Nothing in the model changes: no hook, no extra buffer, no renamed parameter. Use as a context manager, or call
    `detach()` when done.
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer], masks: Mapping[str, Tensor]) -> None:
        self._parameters = check_masks(model, masks)
        every = [each for optimizer in optimizers for each in chain_of(optimizer)]
        held = {id(p) for each in every for group in getattr(each, "param_groups", ()) for p in group["params"]}
        missing = [name for name, p in self._parameters.items() if id(p) not in held and p.requires_grad]
        if len(missing) == len(self._parameters):
            raise UsageError("optimizer holds none of the ticket's parameters; make it from this model's parameters()")
        if missing:
            warnings.warn(
                f"optimizer does not hold {', '.join(missing[:3])}: nothing keeps their pruned weights at zero should "
                "another one train them; attach the ticket to all optimizers at once",
                TicketWarning,
                stacklevel=3,
            )
        self._left_out = pruned_of(self._parameters, masks)
        self._has_warned = False
        zero_(self._parameters, self._pruned)
        self._undo: list[Callable[[], Any]] = []
        for each in every:
            if isinstance(each, Optimizer):
                self._undo.append(each.register_step_pre_hook(self._before_step).remove)
                self._undo.append(each.register_step_post_hook(self._after_step).remove)
            if callable(getattr(each, "first_step", None)):
                self._hold_first_step(each)

    @property
    def _pruned(self) -> dict[str, Tensor]:
        """What the masks leave out, where the parameters lie now: a model may be moved while a ticket is attached."""
        for name, parameter in self._parameters.items():
            if self._left_out[name].device != parameter.device:
                self._left_out[name] = self._left_out[name].to(parameter.device)
        return self._left_out

    def _hold_first_step(self, optimizer: Any) -> None:
        """Hold the mask around the step to the worst point nearby, which is no step of torch's and has no hooks."""
        first_step = optimizer.first_step

        @functools.wraps(first_step)
        def held(*arguments: Any, **named: Any) -> Any:
            zero_gradients_(self._parameters, self._pruned)
            found = first_step(*arguments, **named)
            zero_(self._parameters, self._pruned)
            return found

        optimizer.first_step = held
        self._undo.append(lambda: vars(optimizer).pop("first_step", None))

    @torch.no_grad()
    def _put_back(self) -> None:
        """Zero what came alive since it was zeroed last, and say so the first time."""
        pruned = self._pruned
        alive = {name: p.ne(0).logical_and_(pruned[name]) for name, p in self._parameters.items()}
        # One look at the device.
        if not alive or not torch.stack([each.any() for each in alive.values()]).any():
            return
        zero_(self._parameters, pruned)
        counts = {name: int(each.sum()) for name, each in alive.items()}
        layers = [name for name, count in counts.items() if count]
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"{sum(counts.values()):,} pruned weights of {the_first(layers)} came alive outside of the "
                "steps of the attached optimizers (by load_state_dict, another optimizer, or averages written back) "
                "and are zero again; attach the ticket to all optimizers, and apply_ it to what is loaded or averaged",
                TicketWarning,
                stacklevel=3,
            )

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Hold the mask, of gradients too, and at every evaluation inside a step that takes a closure (LBFGS)."""
        self._put_back()
        zero_gradients_(self._parameters, self._pruned)
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            return None

        def held() -> Any:
            zero_(self._parameters, self._pruned)
            loss = closure()
            zero_gradients_(self._parameters, self._pruned)
            return loss

        if len(args) > 1:
            return (args[0], held, *args[2:]), kwargs
        return args, {**kwargs, "closure": held}

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        zero_(self._parameters, self._pruned)

    def detach(self) -> None:
        """Stop holding the mask; the pruned weights are zero a last time."""
        if self._undo:
            self._put_back()
        while self._undo:
            self._undo.pop()()

    def __enter__(self) -> "Attachment":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()
