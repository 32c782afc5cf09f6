"""Hold a mask in a model: zero the pruned weights once, or after every step of an optimiser."""

import warnings
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tombola.errors import TicketWarning, UsageError
from tombola.masking.names import by_canonical_name


def check_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    """Return the parameters that the masks belong to.

    Raises UsageError that lists every mask whose name or shape the model does not have.
    """
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


class Attachment:
    """Keeps a model's pruned weights at zero through every step of its optimisers.

    Momentum and decoupled weight decay move weights whose gradient is zero, so the mask is applied after each step.
    Nothing in the model changes: no hook, no extra buffer, no renamed parameter. Use as a context manager, or call
    `detach()` when done.
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer], masks: Mapping[str, Tensor]) -> None:
        self._parameters = check_masks(model, masks)
        held = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
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
        self._pruned = pruned_of(self._parameters, masks)
        zero_(self._parameters, self._pruned)
        self._hooks = [
            hook
            for optimizer in optimizers
            for hook in (
                optimizer.register_step_pre_hook(self._before_step),
                optimizer.register_step_post_hook(self._after_step),
            )
        ]

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Hold the mask at every evaluation inside a step too, for optimisers that take a closure (LBFGS)."""
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            return None

        def held() -> Any:
            zero_(self._parameters, self._pruned)
            loss = closure()
            for name, parameter in self._parameters.items():
                if parameter.grad is not None:
                    parameter.grad.masked_fill_(self._pruned[name], 0.0)
            return loss

        if len(args) > 1:
            return (args[0], held, *args[2:]), kwargs
        return args, {**kwargs, "closure": held}

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        zero_(self._parameters, self._pruned)

    def detach(self) -> None:
        """Stop holding the mask; the weights stay as they are."""
        for hook in self._hooks:
            hook.remove()

    def __enter__(self) -> "Attachment":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()
