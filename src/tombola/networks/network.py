"""A private, frozen copy of a model that runs dense or under other weights."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property, reduce
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.overrides import TorchFunctionMode

from tombola.core import double_backward as twice
from tombola.core.flat import Layout
from tombola.errors import TombolaError, UsageError, in_words, lacks_memory
from tombola.networks.masking import named_parameters, unwrap
from tombola.networks.recomputation import (
    Passes,
    has_own_functions,
    joined,
    noting_ungraded,
    places,
    put,
    sharing_copy,
    without_reentry,
)
from tombola.networks.runtime import Runtime
from tombola.networks.task import Batch, Output, Task
from tombola.networks.values import put_values


def statistics_modules(model: nn.Module) -> list[_NormBase]:
    """Return the normalisation layers that can keep running statistics."""
    return [module for module in model.modules() if isinstance(module, _NormBase)]


def still_layers(model: nn.Module) -> list[str]:
    """Return the names of layers that stand in eval mode in a model that is in training mode, as frozen ones do."""
    return [name for name, module in model.named_modules() if not module.training] if model.training else []


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Put every layer back into training or eval mode, as it was, after the block."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def keeps_statistics(model: nn.Module) -> bool:
    """Whether some layer keeps running statistics, by which the model normalises in eval mode."""
    return any(module.running_mean is not None for module in statistics_modules(model))


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
    """Whether statistics are as they were made: neither loaded without their counter, nor InstanceNorm's, uncounted."""
    mean, variance, counter = module.running_mean, module.running_var, module.num_batches_tracked
    if mean is None or variance is None or counter is None or int(counter) != 0:
        return False
    return not bool(mean.any()) and bool((variance == 1).all())


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
def explained_run(what: str, option: str = "") -> Iterator[None]:
    """Turn what Python or torch say when a model meets a batch into a UsageError that begins with `what`.

    option: that it is about.
    """
    try:
        yield
    except Exception as error:  # the model is the user's: anything may come out of it
        if isinstance(error, TombolaError) or lacks_memory(error):
            raise
        raise UsageError(f"{what}: {in_words(error)}", option=option) from error


def private_copy(model: nn.Module) -> nn.Module:
    """Return a copy of the plain model; raises UsageError for one that cannot be copied."""
    try:
        return copy.deepcopy(unwrap(model))
    except (RuntimeError, TypeError) as error:
        raise UsageError(f"model cannot be copied: {' '.join(str(error).split())}") from error


def vector_dtype(model: nn.Module, layout: Layout) -> torch.dtype:
    """Return the type of a `FrozenNetwork`'s flat vector."""
    chosen = {name: parameter.dtype for name, _, parameter in named_parameters(model) if name in layout.names}
    return reduce(torch.promote_types, chosen.values(), torch.float32)


def _make_gradients_dense(model: nn.Module, weights: Sequence[Tensor]) -> None:
    """Let embeddings whose weights come from a vector give gradients that torch can follow into it: no sparse ones."""
    known = {id(weight) for weight in weights}
    for module in model.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and id(module.weight) in known:
            module.sparse = False


class _Forward(nn.Module):
    """Lets functional_call reach a model through a task's forward function."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model = model
        self._forward = task.forward

    def forward(self, batch: Batch) -> Output:
        return self._forward(self.model, batch)


class _Strangers(TorchFunctionMode):
    """Notes which of some parameters are used inside the block, by name: `met`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model  # alive, so that no other tensor takes an identity
        self._names = {id(parameter): name for name, _, parameter in named_parameters(model)}
        self.met: list[str] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        for value in (*args, *kwargs.values()):
            for each in value if isinstance(value, list | tuple) else (value,):
                if id(each) in self._names:
                    self.met.append(self._names[id(each)])
        return func(*args, **kwargs)


NOTHING: Mapping[str, Tensor] = {}


@dataclass(frozen=True)
class Beside:
    """Parameters of a network, by its own names, that a flat mask is on beside the weights, and where in the mask."""

    parameters: Mapping[str, Tensor]
    places: Mapping[str, Tensor]

    @classmethod
    def of(cls, named: Mapping[str, tuple[str, Tensor]], places: Mapping[str, Tensor]) -> "Beside":
        """Return them. named: the network's own names and parameters, by canonical names, as places are."""
        chosen = [(*named[name], each) for name, each in places.items()]
        return cls({own: held for own, held, _ in chosen}, {own: each.to(held.device) for own, held, each in chosen})

    def products(self, mask: Tensor, values: Mapping[str, Tensor] = NOTHING) -> dict[str, Tensor]:
        """Return the parameters, or values in their stead, times the mask (d,) at their places, by one at -1."""
        return {
            own: torch.where(places < 0, 1.0, mask[places.clamp(min=0)]).to(held.dtype) * values.get(own, held)
            for (own, held), places in zip(self.parameters.items(), self.places.values(), strict=True)
        }


# Makes of a flat vector what stands in place of a network's weights, by its own names.
_Placed = Callable[[Tensor], dict[str, Tensor]]


class FrozenNetwork:
    """A copy of `model` in eval mode, none of whose tensors ever asks for a gradient.

    The weights that `layout` names lie in one flat vector, `weights`, of which the copy's parameters are views: masked
    runs cost no second copy. The original is never touched. Raises UsageError, at the first run, for a model whose copy
    uses weights of the original.

    shared: the model is a private copy already, and its tensors are taken as they are, also by several networks.
    beside: parameters that a mask is on too, by canonical name: for each number the place of its weight, (C,), or -1.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: Layout,
        task: Task,
        runtime: Runtime,
        shared: bool = False,
        beside: Mapping[str, Tensor] = NOTHING,
    ) -> None:
        self.runtime = runtime
        self.layout = layout
        copied = sharing_copy(model) if shared else private_copy(model)
        self.model = runtime.place(copied.eval().requires_grad_(False))
        _make_gradients_dense(self.model, list(self.model.parameters()))
        named = {name: (own, parameter) for name, own, parameter in named_parameters(self.model)}
        self._own_names = {name: named[name][0] for name in layout.names}
        self._chosen = {name: named[name][1] for name in layout.names}
        self._beside = Beside.of(named, beside)
        self._dtypes = {name: parameter.dtype for name, parameter in self._chosen.items()}
        self._task, self._forward = task, _Forward(self.model, task)
        self._passes = Passes(self.model)
        self._strangers: _Strangers | None = None if shared else _Strangers(model)
        self._features: tuple[list[str], list[Any]] = [], []
        # Modules whose outputs somebody changes in place before the run is over; not known before the first.
        self._rewritten: set[str] = set()
        # What asks for gradients beside the weights, in passes that ask for any; not known before the first.
        self._rest: dict[str, Tensor] | None = None

    @cached_property
    def weights(self) -> Tensor:
        """The weights that `layout` names, end to end, (d,), in float32 at least; made where they are asked for."""
        device = next(iter(self._chosen.values())).device
        flat = torch.empty(self.layout.total, dtype=vector_dtype(self.model, self.layout), device=device)
        for name, view in self.layout.views(flat).items():
            view.copy_(self._chosen[name])
            if view.dtype == self._dtypes[name]:
                self._chosen[name].data = view
        return flat

    def use_batch_statistics(self) -> None:
        """Normalise by the statistics of each batch from now on, and update none.

        The dense network's running statistics are wrong for a sparse one.
        """
        for module in statistics_modules(self.model):
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
        self._passes = Passes(self.model)

    def dense(self, batch: Batch) -> Output:
        """Run the network as it is, without gradients."""
        with torch.no_grad():
            return self._call({}, batch)

    def under(self, weights: Tensor, batch: Batch, others: Mapping[str, Tensor] | None = None) -> Output:
        """Run the network with the flat vector `weights` in place of its own; differentiable in it.

        others: values, by the copy's own names, for parameters that are not in the layout. However many runs there are
        before somebody goes backward through them, each finds its own weights there, also where parts of the network
        are run again. Raises UsageError, in backward, where an autograd function of the model's own loses gradients.
        """
        return self._run(weights, batch, self._placed, others or {})

    def masked(self, mask: Tensor, batch: Batch) -> Output:
        """Run the network with a flat mask times its weights; like `under`, differentiable in the mask.

        The products are formed layer by layer, each in the layer's own type.
        """
        return self._run(mask, batch, self._products, {})

    def gated(self, mask: Tensor, others: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return values of parameters that are not in the layout, by the copy's own names, as a mask leaves them."""
        return {**others, **self._beside.products(mask, others)}

    def _run(self, vector: Tensor, batch: Batch, placed: _Placed, others: Mapping[str, Tensor]) -> Output:
        if not torch.is_grad_enabled() or not any(each.requires_grad for each in (vector, *others.values())):
            return self._call({**placed(vector), **others}, batch)

        return self._with_features(lambda: self._followed(vector, batch, placed, others))

    def _with_features(self, run: Callable[[], tuple[Output, list[Any]]]) -> Output:
        """Return the output of a run, whose features are kept.

        It is done again where outputs that were to be kept changed in place, which copies made at once outlive. Others
        are kept as they are: copies would change the order in which gradients are added up.
        """
        known = -1
        while known < len(self._rewritten):
            known = len(self._rewritten)
            output, features = run()
        self._features[1].extend(features)
        return output

    def _followed(
        self, vector: Tensor, batch: Batch, placed: _Placed, others: Mapping[str, Tensor]
    ) -> tuple[Output, list[Any]]:
        """Return the output of a run that somebody may go backward through, and the features that were asked for."""

        def forward(model: nn.Module) -> tuple[Output, list[Any]]:
            with self._collected(model) as features:
                return self._task.forward(model, batch), features

        is_first, tensors = self._rest is None, {**(self._rest or {}), **others}
        with self._checked(), noting_ungraded() if is_first else nullcontext() as met:
            found = self._passes.run(vector, lambda each: {**placed(each), **tensors}, forward)
        if is_first:
            self._rest = {}
            if met and has_own_functions(found):
                # Functions that run modules again ask for the gradients of all their parameters.
                gated = self._beside.parameters
                self._rest = {own: leaf for own, leaf in self.other_parameters().items() if own not in gated}
                found = self._followed(vector, batch, placed, others)
        if self._rest and twice.is_active():
            raise UsageError(
                "model runs parts of itself again in backward by an autograd function of its own, whose gradients this "
                "finder or objective would have to differentiate again; use torch.utils.checkpoint, or a finder such "
                "as snip, or an objective such as loss"
            )
        output, features = found
        return output, features

    def _placed(self, weights: Tensor) -> dict[str, Tensor]:
        """Return the weights by the copy's own names."""
        views = self.layout.views(weights)
        return {self._own_names[name]: view.to(self._dtypes[name]) for name, view in views.items()}

    def _products(self, mask: Tensor) -> dict[str, Tensor]:
        """Return a mask times the weights, by the copy's own names."""
        parts, weights = self.layout.views(mask), self.layout.views(self.weights)
        found = {own: (parts[name] * weights[name]).to(self._dtypes[name]) for name, own in self._own_names.items()}
        return found | self._beside.products(mask)

    def _call(self, replaced: Mapping[str, Tensor], batch: Batch) -> Output:
        def run() -> tuple[Output, list[Any]]:
            # Buffers that change in forward change in copies: each run depends on its weights and its batch alone.
            buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
            tensors = {f"model.{name}": tensor for name, tensor in {**buffers, **replaced}.items()}
            with self._checked(), self._collected(self.model) as features, without_reentry():
                return functional_call(self._forward, tensors, (batch,)), features

        return self._with_features(run)

    @contextmanager
    def _checked(self) -> Iterator[None]:
        """Run the copy inside the block, for the first time with an eye on the original."""
        strangers, self._strangers = self._strangers, None
        with self.runtime.autocast(), explained_batches(), strangers or nullcontext():
            yield
        if strangers is not None and strangers.met:
            raise UsageError(
                f"model cannot be copied: the copy uses {strangers.met[0]} of the model itself, through a function "
                "such as a lambda that holds the model or a layer; make it a method, or a functools.partial of one"
            )

    def other_parameters(self) -> dict[str, Tensor]:
        """Return fresh leaves for the parameters that are not in the layout, for `under`."""
        chosen = set(self._own_names.values())
        return {
            name: parameter.detach().clone().requires_grad_()
            for name, parameter in self.model.named_parameters()
            if name not in chosen and parameter.is_floating_point()
        }

    @contextmanager
    def capture(self, patterns: Sequence[str] = ()) -> Iterator[list[Tensor]]:
        """Collect the outputs of modules, in the order of their calls, while the network runs.

        What runs again in backward is not collected again. patterns: globs of module names; without any, every nn.ReLU.
        Raises UsageError where no module is meant, where the network's runs call none of them, and where one returns
        something else than a tensor.
        """
        found = [
            name
            for name, module in self.model.named_modules()
            if any(fnmatchcase(name, pattern) for pattern in patterns) or (not patterns and isinstance(module, nn.ReLU))
        ]
        if not found:
            what = f"no module's name matches {', '.join(patterns)}" if patterns else "the model has no nn.ReLU module"
            raise UsageError(f"{what}; give patterns of the names of the modules to compare", option="features")
        before, self._features = self._features, (found, [])
        try:
            outputs = self._features[1]
            yield outputs
        finally:
            self._features = before
        if not outputs:
            words = f"the network calls none of the modules to compare, {', '.join(found)}"
            raise UsageError(f"{words}; give patterns of the names of modules that it calls", option="features")

    @contextmanager
    def _collected(self, model: nn.Module) -> Iterator[list[Any]]:
        """Give a list that gets the features of the network, or of a copy of it, in one run."""
        outputs: list[Any] = []
        noted: list[tuple[str, int]] = []

        def note(name: str, output: Any) -> None:
            if not isinstance(output, Tensor):
                words = f"module {name} returns no tensor but a {type(output).__name__}"
                raise UsageError(f"{words}; give patterns of the names of modules that return one", option="features")
            outputs.append(output.clone() if name in self._rewritten else output)
            noted.append((name, outputs[-1]._version))

        modules = dict(model.named_modules()) if self._features[0] else {}
        handles = [
            modules[name].register_forward_hook(lambda _m, _i, output, name=name: note(name, output))
            for name in self._features[0]
        ]
        try:
            yield outputs
        finally:
            for handle in handles:
                handle.remove()
        changed = [name for (name, version), output in zip(noted, outputs, strict=True) if output._version != version]
        self._rewritten.update(changed)


def load_weights(model: nn.Module, tensors: Mapping[str, Any]) -> nn.Module:
    """Return a private copy of a model with other values in its parameters and buffers."""
    private = private_copy(model)
    put_values(private, tensors)
    return private


class GatedNetwork:
    """A model in training that runs with its weights times a mask; gradients reach both.

    model: is trained in place by its owner. layout: its weights that have a gate. beside: as of `FrozenNetwork`.
    """

    def __init__(self, model: nn.Module, layout: Layout, task: Task, beside: Mapping[str, Tensor] = NOTHING) -> None:
        self._layout = layout
        self._model, self._task = model, task
        named = {name: (own, parameter) for name, own, parameter in named_parameters(model)}
        self._chosen = {name: named[name] for name in layout.names}
        self._beside = Beside.of(named, beside)
        self._places = places(model)
        _make_gradients_dense(model, [parameter for _, parameter in self._chosen.values()])

    def under(self, mask: Tensor, batch: Batch) -> Output:
        """Run the model under a flat mask (d,); its buffers change as they do in any training.

        Backward, whatever runs again finds the masked weights, and leaves running statistics as they are.
        """
        products = self._masked(mask)
        # Leaves, so that whatever somebody does in backward, in whatever order, adds up in them.
        leaves = {own: product.detach().requires_grad_() for own, product in products.items()}
        placed = {own: leaf.view_as(leaf) for own, leaf in leaves.items()}

        def follow(outputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor | None]:
            with self._in_place(placed), _still(self._model):
                torch.autograd.backward(outputs, gradients)
            return [leaf.grad for leaf in leaves.values()]

        with self._in_place(placed):
            output = self._task.forward(self._model, batch)
        return joined(output, list(products.values()), follow)

    @contextmanager
    def _in_place(self, tensors: Mapping[str, Tensor]) -> Iterator[None]:
        """Put tensors in the place of the model's own inside the block."""
        put(self._places, tensors)
        try:
            with without_reentry():
                yield
        finally:
            put(self._places, {**dict(self._chosen.values()), **self._beside.parameters})

    def masked(self, mask: Tensor) -> nn.Module:
        """Return a copy of the model with the mask multiplied into its weights."""
        copied = private_copy(self._model)
        parameters = dict(copied.named_parameters())
        with torch.no_grad():
            for own, value in self._masked(mask).items():
                parameters[own].copy_(value)
        return copied

    def _masked(self, mask: Tensor) -> dict[str, Tensor]:
        views = self._layout.views(mask)
        found = {own: views[name].to(parameter.dtype) * parameter for name, (own, parameter) in self._chosen.items()}
        return found | self._beside.products(mask)


@contextmanager
def _still(model: nn.Module) -> Iterator[None]:
    """Leave running statistics as they are at the end of the block, whatever runs again inside."""
    before = [
        (buffer, buffer.clone())
        for module in statistics_modules(model)
        if module.training
        for buffer in module.buffers(recurse=False)
    ]
    yield
    for buffer, values in before:
        buffer.copy_(values)


@torch.no_grad()
def estimate_statistics(model: nn.Module, batches: Any, task: Task, runtime: Runtime) -> nn.Module:
    """Return a copy of a model whose running statistics that never saw a batch are the averages over the given ones.

    As they are (mean 0, variance 1) they mean nothing. Layers that have seen batches keep their own.
    """
    estimated = runtime.place(private_copy(model).eval())
    unset = [module for module in statistics_modules(estimated) if _is_unset(module)]
    for module in unset:
        module.momentum = None  # a cumulative average
        module.train()
    uncounted = [module for module in unset if isinstance(module, _InstanceNorm)]
    handles = [module.register_forward_pre_hook(_count_batch) for module in uncounted]
    for batch in batches:
        with runtime.autocast(), explained_batches(), without_reentry():
            task.forward(estimated, runtime.move(batch))
    for handle in handles:
        handle.remove()
    return estimated.eval()


def _count_batch(module: nn.Module, _inputs: Any) -> None:
    """Make InstanceNorm's average cumulative before a batch: it counts none, and takes a momentum of None for 0."""
    counter = cast(Tensor, module.num_batches_tracked)
    counter += 1
    cast(_InstanceNorm, module).momentum = 1 / int(counter)
