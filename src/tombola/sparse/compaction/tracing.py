"""A model as a graph of operations with shapes, by torch.fx."""

from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata

from tombola.errors import UsageError, in_words


@dataclass(frozen=True)
class Traced:
    """A graph whose nodes refer to modules by name. shapes: of every node that is a tensor. tuples: of several."""

    graph: fx.Graph
    modules: dict[str, nn.Module]
    shapes: dict[fx.Node, torch.Size]
    tuples: frozenset[fx.Node]

    def name_of(self, node: fx.Node) -> str:
        """Return what a node calls: a function's or method's name, or a module's class."""
        if node.op == "call_module":
            return type(self.modules[str(node.target)]).__name__
        return node.target if isinstance(node.target, str) else str(getattr(node.target, "__name__", node.target))


def refusal(why: str) -> UsageError:
    """Return the error of a model that cannot be compacted."""
    return UsageError(f"the model cannot be compacted: {why}")


def propagate(whole: fx.GraphModule, example: Tensor) -> None:
    """Note the shapes of what a graph's nodes give for an example, which stays as it is."""
    with redirect_stderr(StringIO()):  # where ShapeProp prints what it raises as well
        ShapeProp(whole).propagate(example.clone())


def trace(model: nn.Module, example: Tensor) -> Traced:
    """Return a model's graph; raises UsageError, with the reason, for one that cannot be traced.

    model: in eval mode. example: a batch of inputs, (N, ...).
    """
    try:
        graph = fx.Tracer().trace(model)
        whole = fx.GraphModule(model, graph)
        propagate(whole, example)
    except Exception as error:  # the model is the user's: anything may come out of it
        raise refusal(f"torch.fx cannot trace it ({in_words(error.__cause__ or error)})") from error
    seen = {node: node.meta["tensor_meta"] for node in graph.nodes if "tensor_meta" in node.meta}
    shapes = {node: meta.shape for node, meta in seen.items() if isinstance(meta, TensorMetadata)}
    return Traced(graph, dict(model.named_modules()), shapes, frozenset(seen.keys() - shapes.keys()))
