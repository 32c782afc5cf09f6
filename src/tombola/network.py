"""A private, frozen copy of a model that runs dense or under other weights."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase

from tombola.errors import TombolaError, UsageError, in_words, lacks_memory
from tombola.flat import Layout
from tombola.masking import named_parameters, unwrap
from tombola.numeric import at_least_float32
from tombola.runtime import Runtime
from tombola.task import Batch, Output, Task


def statistics_modules(model: nn.Module) -> list[_NormBase]:
    """Return the normalisation layers that can keep running statistics."""
    return [module for module in model.modules() if isinstance(module, _NormBase)]


def uses_batch_statistics(model: nn.Module) -> bool:
    """Whether the model, in eval mode, still normalises some layer by the statistics of its batch."""
    return any(
        module.running_mean is None
        for module in statistics_modules(model)
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    )


def lacks_statistics(model: nn.Module) -> bool:
    """Whether some layer's running statistics have never seen a batch, so that they mean nothing."""
    return any(map(_is_unset, statistics_modules(model)))


def _is_unset(module: _NormBase) -> bool:
    return module.num_batches_tracked is not None and int(module.num_batches_tracked) == 0


@contextmanager
def explained_batches() -> Iterator[None]:
    """Turn torch's refusal to normalise a batch of one into a UsageError that says what to do."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UsageError(
            "a batch of one sample cannot be normalised by BatchNorm; choose another batch size (of training or of the "
            "search), or leave such a batch out",
            option="batch_size",
        ) from error


@contextmanager
def explained_run(what: str) -> Iterator[None]:
    """Turn what Python or torch say when a model meets a batch into a UsageError that begins with `what`."""
    try:
        yield
    except Exception as error:  # the model is the user's: anything may come out of it
        if isinstance(error, TombolaError) or lacks_memory(error):
            raise
        raise UsageError(f"{what}: {in_words(error)}") from error


def private_copy(model: nn.Module) -> nn.Module:
    """Return a copy of the plain model; raises UsageError for one that cannot be copied."""
    try:
        return copy.deepcopy(unwrap(model))
    except (RuntimeError, TypeError) as error:
        raise UsageError(f"model cannot be copied: {' '.join(str(error).split())}") from error


class _Forward(nn.Module):
    """Lets functional_call reach a model through a task's forward function."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model = model
        self._forward = task.forward

    def forward(self, batch: Batch) -> Output:
        return self._forward(self.model, batch)


class FrozenNetwork:
    """A copy of `model` in eval mode, none of whose tensors ever asks for a gradient.

    The weights that `layout` names lie in one flat vector, `weights`, of which the copy's parameters are views: masked
    runs cost no second copy. The original is never touched.
    """

    def __init__(self, model: nn.Module, layout: Layout, task: Task, runtime: Runtime) -> None:
        self.runtime = runtime
        self.layout = layout
        self.model = runtime.place(private_copy(model).eval().requires_grad_(False))
        named = {name: (own, parameter) for name, own, parameter in named_parameters(self.model)}
        self._own_names = {name: f"model.{named[name][0]}" for name in layout.names}
        chosen = {name: named[name][1] for name in layout.names}
        self._dtypes = {name: parameter.dtype for name, parameter in chosen.items()}
        self.weights = layout.flatten({name: at_least_float32(p) for name, p in chosen.items()})
        for name, view in layout.views(self.weights).items():
            if view.dtype == chosen[name].dtype:
                chosen[name].data = view
        self._forward = _Forward(self.model, task)

    def use_batch_statistics(self) -> None:
        """Normalise by the statistics of each batch from now on, and update none.

        The dense network's running statistics are wrong for a sparse one.
        """
        for module in statistics_modules(self.model):
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None

    def dense(self, batch: Batch) -> Output:
        """Run the network as it is, without gradients."""
        with torch.no_grad():
            return self._call({}, batch)

    def under(self, weights: Tensor, batch: Batch, others: Mapping[str, Tensor] | None = None) -> Output:
        """Run the network with the flat vector `weights` in place of its own; differentiable in it.

        others: values, by the copy's own names, for parameters that are not in the layout.
        """
        replaced = {
            self._own_names[name]: view.to(self._dtypes[name]) for name, view in self.layout.views(weights).items()
        }
        return self._call({**replaced, **(others or {})}, batch)

    def _call(self, replaced: Mapping[str, Tensor], batch: Batch) -> Output:
        # Buffers that change in forward change in copies: each run depends on its weights and its batch alone.
        buffers = {f"model.{name}": buffer.clone() for name, buffer in self.model.named_buffers()}
        with self.runtime.autocast(), explained_batches():
            return functional_call(self._forward, {**buffers, **replaced}, (batch,))

    def other_parameters(self) -> dict[str, Tensor]:
        """Return fresh leaves for the parameters that are not in the layout, for `under`."""
        layout = set(self._own_names.values())
        named = {f"model.{name}": parameter for name, parameter in self.model.named_parameters()}
        return {
            name: parameter.detach().clone().requires_grad_()
            for name, parameter in named.items()
            if name not in layout and parameter.is_floating_point()
        }

    @contextmanager
    def capture(self, patterns: Sequence[str] = ()) -> Iterator[list[Tensor]]:
        """Collect the outputs of modules, in the order of their calls, while the network runs.

        patterns: globs of module names; without any, every nn.ReLU. Raises UsageError where no module is meant.
        """
        found = [
            module
            for name, module in self.model.named_modules()
            if any(fnmatchcase(name, pattern) for pattern in patterns) or (not patterns and isinstance(module, nn.ReLU))
        ]
        if not found:
            what = f"no module's name matches {', '.join(patterns)}" if patterns else "the model has no nn.ReLU module"
            raise UsageError(f"{what}; give patterns of the names of the modules to compare", option="features")
        outputs: list[Tensor] = []
        handles = [module.register_forward_hook(lambda _m, _i, output: outputs.append(output)) for module in found]
        try:
            yield outputs
        finally:
            for handle in handles:
                handle.remove()


def load_weights(model: nn.Module, tensors: Mapping[str, Any]) -> nn.Module:
    """Return a private copy of a model with other values in its parameters and buffers."""
    private = private_copy(model)
    private.load_state_dict(tensors)
    return private


class GatedNetwork:
    """A model in training that runs with its weights times a mask; gradients reach both.

    model: is trained in place by its owner. layout: its weights that have a gate.
    """

    def __init__(self, model: nn.Module, layout: Layout, task: Task) -> None:
        self._layout = layout
        self._model, self._forward = model, _Forward(model, task)
        named = {name: (own, parameter) for name, own, parameter in named_parameters(model)}
        self._chosen = {name: named[name] for name in layout.names}

    def under(self, mask: Tensor, batch: Batch) -> Output:
        """Run the model under a flat mask (d,); its buffers change as they do in any training."""
        return functional_call(self._forward, self._masked("model.", mask), (batch,))

    def masked(self, mask: Tensor) -> nn.Module:
        """Return a copy of the model with the mask multiplied into its weights."""
        copied = private_copy(self._model)
        parameters = dict(copied.named_parameters())
        with torch.no_grad():
            for own, value in self._masked("", mask).items():
                parameters[own].copy_(value)
        return copied

    def _masked(self, prefix: str, mask: Tensor) -> dict[str, Tensor]:
        views = self._layout.views(mask)
        return {
            prefix + own: views[name].to(parameter.dtype) * parameter for name, (own, parameter) in self._chosen.items()
        }


@torch.no_grad()
def estimate_statistics(model: nn.Module, batches: Any, task: Task, runtime: Runtime) -> nn.Module:
    """Return a copy of a model whose running statistics that never saw a batch are the averages over the given ones.

    As they are (mean 0, variance 1) they mean nothing. Layers that have seen batches keep their own.
    """
    estimated = runtime.place(private_copy(model).eval())
    for module in filter(_is_unset, statistics_modules(estimated)):
        module.momentum = None  # a cumulative average
        module.train()
    for batch in batches:
        with runtime.autocast(), explained_batches():
            task.forward(estimated, runtime.move(batch))
    return estimated.eval()
