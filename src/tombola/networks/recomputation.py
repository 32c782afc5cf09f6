"""Runs through networks that hold in backward too, where parts of the network may run again.

Activation checkpointing keeps no activations of some segment and runs it again in backward. Whatever a run has put in
place of the network's own weights must still be there by then.
"""

import copy
import functools
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
import torch.utils.checkpoint as checkpointing
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.module import register_module_forward_pre_hook

from tombola.core import double_backward as twice
from tombola.errors import UsageError

# For each tensor of a model, by name: the dictionaries that hold it and its key there; tied ones have several.
Places = dict[str, list[tuple[dict[str, Any], str]]]


def places(model: nn.Module) -> Places:
    """Return where a model holds its parameters and buffers, by the names that named_parameters() gives them."""
    found: Places = {}
    names: dict[int, str] = {}
    for path, module in model.named_modules():
        for held in (module._parameters, module._buffers):
            for key, tensor in held.items():
                if tensor is not None:
                    name = names.setdefault(id(tensor), f"{path}.{key}" if path else key)
                    found.setdefault(name, []).append((held, key))
    return found


def sharing_copy(model: nn.Module) -> nn.Module:
    """Return a copy of a model's modules that has the same tensors."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


def put(where: Places, tensors: Mapping[str, Tensor]) -> None:
    """Put tensors in place of a model's own, by name."""
    for name, tensor in tensors.items():
        for held, key in where[name]:
            held[key] = tensor


_lock, _holds = threading.RLock(), 0
_met: ContextVar[list[None] | None] = ContextVar("met", default=None)


def _hold() -> None:
    """Run reentrant checkpoints as non-reentrant ones until a `_release`.

    Reentrant ones exclude autograd.grad, second gradients, and gradients of weights where no input asks for one.
    """
    global _holds
    with _lock:
        if not _holds:
            checkpointing.CheckpointFunction.apply = staticmethod(_checkpoint)
        _holds += 1


def _release() -> None:
    global _holds
    with _lock:
        _holds -= 1
        if not _holds:
            del checkpointing.CheckpointFunction.apply  # leaves the inherited one


@contextmanager
def without_reentry() -> Iterator[list[None]]:
    """Run reentrant checkpoints as non-reentrant ones inside the block; yields a list that grows with each."""
    met: list[None] = []
    token = _met.set(met)
    _hold()
    try:
        yield met
    finally:
        _release()
        _met.reset(token)


def _checkpoint(function: Callable[..., Any], preserve_rng_state: bool, *arguments: Any) -> Any:
    """Stand in for the application of torch's reentrant checkpoint."""
    met, again = _met.get(), _Again(twice.is_active())
    if met is not None:
        met.append(None)
    return checkpointing.checkpoint(
        function,
        *arguments,
        use_reentrant=False,
        preserve_rng_state=preserve_rng_state,
        context_fn=lambda: (nullcontext(), again),
    )


class _Again(AbstractContextManager[None]):
    """Runs something again as it ran at first, any number of times."""

    def __init__(self, is_twice: bool) -> None:
        self._is_twice = is_twice
        self._entered: list[ExitStack] = []

    def __enter__(self) -> None:
        with ExitStack() as stack:
            stack.enter_context(without_reentry())
            if self._is_twice:
                stack.enter_context(twice.twice_differentiable())
            self._entered.append(stack.pop_all())

    def __exit__(self, *error: Any) -> None:
        self._entered.pop().__exit__(*error)


class _Life:
    """Lies in the graph of a run, and lives as long."""

    def __init__(self) -> None:
        _hold()
        weakref.finalize(self, _release).atexit = False


class Pass:
    """A copy of a model's modules that shares its tensors, for one run at a time.

    What a run puts in place of parameters stays there until the next: `is_over` says when nobody can go backward
    through the last run any more.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parameters, self._buffers = dict(model.named_parameters()), dict(model.named_buffers())
        self._model = sharing_copy(model)
        self._places = places(self._model)
        self._life: weakref.ref[_Life] | None = None
        self._is_running = self._is_twice = self._is_followed = False

    @property
    def is_over(self) -> bool:
        """Whether the graph of the last run is gone."""
        return self._life is None or self._life() is None

    def run(self, tensors: Mapping[str, Tensor], forward: Callable[[nn.Module], Any], watch: "_Watch") -> Any:
        """Return what `forward` gives of the model with some tensors in place of its own.

        Buffers that change in forward change in copies, and what runs again finds them as they were before.
        """
        buffers = self._fresh_buffers()
        put(self._places, {**self._parameters, **buffers, **tensors})
        self._is_twice = twice.is_active()
        with self._running(), without_reentry() as met:
            output = forward(self._model)
        if met or self._is_twice:
            self._follow()
        if self._have_changed(buffers):
            put(self._places, self._fresh_buffers())
        life = _Life()
        self._life = weakref.ref(life)
        return _followed(output, lambda _: watch.begin(life))

    def _fresh_buffers(self) -> dict[str, Tensor]:
        return {name: buffer.clone() for name, buffer in self._buffers.items()}

    def _have_changed(self, buffers: Mapping[str, Tensor]) -> bool:
        """Whether a buffer was written to, or another put in its place."""
        return any(
            buffer._version or any(held[key] is not buffer for held, key in self._places[name])
            for name, buffer in buffers.items()
        )

    @contextmanager
    def _running(self) -> Iterator[None]:
        self._is_running = True
        try:
            yield
        finally:
            self._is_running = False

    def _follow(self) -> None:
        """See to it that modules which run again do so as they ran at first."""
        if self._is_followed:
            return
        for module in self._model.modules():
            if not isinstance(module, torch.jit.ScriptModule):
                module.forward = self._as_at_first(module.forward)
        self._is_followed = True

    def _as_at_first(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(forward)
        def run(*arguments: Any, **named: Any) -> Any:
            if self._is_running:
                return forward(*arguments, **named)
            with self._running(), _Again(self._is_twice):
                return forward(*arguments, **named)

        return run


class Passes:
    """Runs one model under other weights, as often at a time as somebody may still go backward."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._passes: list[Pass] = []

    def run(
        self,
        weights: Tensor,
        placed: Callable[[Tensor], Mapping[str, Tensor]],
        forward: Callable[[nn.Module], Any],
    ) -> Any:
        """Return what `forward` gives of the model with placed(weights), by name, in place of its own tensors.

        Raises UsageError in backward where gradients of the weights would be lost.
        """
        free = next((each for each in self._passes if each.is_over), None)
        if free is None:
            free = Pass(self._model)
            self._passes.append(free)
        watch = _Watch()
        return free.run(placed(watch.through(weights)), forward, watch)


@contextmanager
def noting_ungraded() -> Iterator[list[None]]:
    """Give a list that grows with each module that runs inside the block where no gradients are followed.

    Autograd functions of somebody's own do so that run modules again in backward.
    """
    met: list[None] = []

    def note(module: nn.Module, inputs: Any) -> None:
        if not torch.is_grad_enabled():
            met.append(None)

    handle = register_module_forward_pre_hook(note)
    try:
        yield met
    finally:
        handle.remove()


def has_own_functions(output: Any) -> bool:
    """Whether autograd functions of somebody's own lie in the graph of an output."""
    waiting = [tensor.grad_fn for tensor in _tensors_in(output)]
    seen = set[Any]()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        function = getattr(node, "_forward_cls", None)
        if function is not None and not function.__module__.startswith("tombola."):
            return True
        waiting.extend(following for following, _ in node.next_functions)
    return False


class _Watch:
    """Watches one run for gradients that an autograd function of somebody's own keeps to itself.

    Such functions run modules again in backward and call backward() there, whose gradients go to leaves, and are none
    of those that torch.autograd.grad returns.
    """

    def __init__(self) -> None:
        self._is_losing = False

    def begin(self, life: _Life) -> None:
        """Begin to go backward from the run's output; `life` is held as long as that is possible."""
        self._is_losing = False

    def through(self, weights: Tensor) -> Tensor:
        """Return the same weights, watched."""
        leaf = weights.new_zeros(()).requires_grad_()
        leaf.register_post_accumulate_grad_hook(self._note)
        watched: Tensor = _Watched.apply(weights, leaf, self._check)
        return watched

    def _note(self, leaf: Tensor) -> None:
        self._is_losing = True

    def _check(self) -> None:
        if self._is_losing:
            raise UsageError(
                "model runs parts of itself again in backward by an autograd function of its own that calls backward() "
                "there, so that gradients of masks are lost; let it ask torch.autograd.grad for those of its "
                "parameters, or use torch.utils.checkpoint"
            )


class _Watched(torch.autograd.Function):
    """The weights; a backward() that gets here leaves a gradient in the leaf, which torch.autograd.grad does not."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, leaf: Tensor, check: Callable[[], None]) -> Tensor:
        ctx.check = check
        return weights.view_as(weights)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ctx.check()
        return gradients[0], gradients[0].new_zeros(()), None


def joined(output: Any, inputs: Sequence[Tensor], follow: "Follow") -> Any:
    """Return a run's output as if it had been made of `inputs`, whatever its own graph says.

    Backward, `follow` goes from the output's tensors through that graph, and says what comes to the inputs.
    """
    found = [tensor for tensor in _tensors_in(output) if tensor.requires_grad]
    if not found or not torch.is_grad_enabled():
        return output
    made = _Joined.apply(follow, found, *inputs)
    return _exchanged(output, dict(zip(map(id, found), made, strict=True)))


# Goes from tensors, with their gradients, backward through their own graph, and returns the gradients of the inputs.
Follow = Callable[[Sequence[Tensor], Sequence[Tensor]], Sequence[Tensor | None]]


class _Joined(torch.autograd.Function):
    """Tensors of one graph as functions of others."""

    @staticmethod
    def forward(ctx: Any, follow: Follow, outputs: Sequence[Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.follow, ctx.outputs = follow, outputs
        ctx.set_materialize_grads(False)
        return tuple(output.detach() for output in outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        pairs = [pair for pair in zip(ctx.outputs, gradients, strict=True) if pair[1] is not None]
        return None, None, *ctx.follow(*zip(*pairs, strict=True))


def _followed(value: Any, hook: Callable[[Tensor], None]) -> Any:
    """Return a run's output, aliases in place of its tensors, with a hook in the graph of each.

    Aliases, because the modules may hold the tensors themselves.
    """
    aliases: dict[int, Tensor] = {}
    for tensor in _tensors_in(value):
        if tensor.requires_grad:
            aliases[id(tensor)] = alias = tensor.view_as(tensor)
            alias.register_hook(hook)
    return _exchanged(value, aliases)


def _exchanged(value: Any, others: Mapping[int, Tensor]) -> Any:
    """Return a structure with other tensors in place of some, by their identity, and all else as it is."""
    same = {id(each): each for each in _leaves_of(value)}
    return copy.deepcopy(value, {**same, **others})


def _tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in a structure of any kind."""
    return (each for each in _leaves_of(value) if isinstance(each, Tensor))


def _leaves_of(value: Any) -> Iterator[Any]:
    """Yield the tensors, modules and classes in a structure of any kind."""
    waiting, seen = [value], set[int]()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, Tensor | nn.Module | type):
            yield each
        elif isinstance(each, Mapping):
            waiting.extend(each.values())
        elif isinstance(each, list | tuple | set):
            waiting.extend(each)
        else:
            waiting.extend(getattr(each, "__dict__", {}).values())
