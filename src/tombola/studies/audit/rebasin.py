"""Re-basin: the units of one trained network matched to another's, and a ticket carried over to that other.

Source: Adnan et al. 2025, arXiv 2505.05143: masks of one basin fit other initial weights once they are permuted.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from tombola.errors import UsageError
from tombola.networks.network import explained_batches
from tombola.networks.runtime import Runtime
from tombola.networks.task import Task
from tombola.sparse.compaction.plan import Layer
from tombola.sparse.compaction.reading import read
from tombola.sparse.compaction.tracing import trace
from tombola.studies.audit.alterations import Impossible
from tombola.ticket import Ticket

# Added to products of standard deviations: units that never move match anything.
NEARLY_NONE = 1e-4


@dataclass(frozen=True)
class Chain:
    """The layers of a network that is one chain, such as an MLP or a plain convolutional one, in their order."""

    layers: tuple[Layer, ...]

    @classmethod
    def of(cls, model: nn.Module, example: Tensor) -> "Chain":
        """Return a model's layers; raises Impossible where it is no chain, or cannot be followed.

        model: in eval mode. example: a batch of inputs, (N, ...).
        """
        try:
            plan = read(trace(model, example))
        except UsageError as error:
            raise Impossible(f"units are matched in chains of layers alone; {error.message}") from None
        layers = tuple(plan.layers)
        follows = all(
            set(after.value.units.tolist()) == set(before.units.tolist()) for before, after in pairwise(layers)
        )
        if not layers or plan.is_joined or not follows or len({layer.module for layer in layers}) < len(layers):
            raise Impossible(
                "units are matched in chains of layers alone, such as MLPs and plain convolutional networks"
            )
        return cls(layers)

    def inputs(self, model: nn.Module, batches: Iterable[Any], task: Task, runtime: Runtime) -> dict[str, Tensor]:
        """Return what each layer but the first reads of its predecessor's units, (units, samples), by its name."""
        seen: dict[str, list[Tensor]] = {layer.module: [] for layer in self.layers[1:]}

        def watch(layer: Layer) -> Any:
            def note(_: nn.Module, given: tuple[Any, ...]) -> None:
                values = given[0].detach().double().cpu()
                units = layer.value.units
                # Positions of a unit, be they an image's or features that flattening made of them, are samples.
                blocks = values.reshape(len(values), len(units), -1)
                count = len(dict.fromkeys(units.tolist()))
                seen[layer.module].append(blocks.reshape(len(values), count, -1).transpose(0, 1).reshape(count, -1))

            return model.get_submodule(layer.module).register_forward_pre_hook(note)

        handles = [watch(layer) for layer in self.layers[1:]]
        try:
            with torch.no_grad(), explained_batches():
                for batch in batches:
                    task.forward(model, runtime.move(batch))
        finally:
            for handle in handles:
                handle.remove()
        return {name: torch.cat(parts, dim=1) for name, parts in seen.items()}

    def permuted(self, ticket: Ticket, places: Mapping[str, Tensor]) -> Ticket:
        """Return a ticket whose units stand where others' do.

        places: by the name of the layer that reads them, the place of the unit that each unit's place gets, (units,).
        """
        masks = dict(ticket)
        unknown = masks.keys() - {f"{layer.module}.weight" for layer in self.layers}
        if unknown:
            raise Impossible(f"units are matched in chains of layers alone; {min(unknown)} is of none")
        for number, layer in enumerate(self.layers):
            name = f"{layer.module}.weight"
            if name not in masks:
                continue
            if number:
                block = len(layer.value.units) // len(places[layer.module])
                columns = (places[layer.module][:, None] * block + torch.arange(block, device="cpu")).flatten()
                masks[name] = masks[name][:, columns]
            if number + 1 < len(self.layers):
                masks[name] = masks[name][places[self.layers[number + 1].module]]
        return Ticket(masks, ticket.provenance)


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return how each of one network's units goes with each of another's, (units, units); given: (units, samples)."""
    centred = [values - values.mean(dim=1, keepdim=True) for values in (first, second)]
    spread = [values.square().mean(dim=1).sqrt() for values in centred]
    return centred[0] @ centred[1].T / first.shape[1] / (torch.outer(*spread) + NEARLY_NONE)


def matched(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return, for each unit of the second network, the first's that goes with it best, all together (Hungarian)."""
    found = {}
    for name, values in first.items():
        _, places = linear_sum_assignment(correlation(second[name], values).numpy(), maximize=True)
        found[name] = torch.from_numpy(np.asarray(places)).long()
    return found
