"""A finder, an objective and a controller of one's own, in Python and on the command line.

Run it as it is, or name its parts wherever a name does, from the folder that it lies in:

    tombola run --preset digits --finder own_parts:RelativeMagnitude:power=0.5
    tombola run --preset digits --objective own_parts:hesitant_kl --controller own_parts:PI:integral=0.02
    tombola compare --preset digits --finders cts,own_parts:RelativeMagnitude,cts:controller=own_parts:PI --seeds 2
"""

from dataclasses import dataclass

import sklearn.datasets
import torch
from torch import Tensor, nn

import tombola
from tombola.controllers import Figures, State, Target
from tombola.finders import Problem, Ranked
from tombola.objectives import MaskedBatch


@dataclass(frozen=True)
class RelativeMagnitude(Ranked):
    """Ranks weights by their size beside that of their layer, so that no layer starves for its scale."""

    power: float = tombola.option(1.0, "how far the layers' scales are evened out: 0 not at all, 1 wholly")

    def scores(self, problem: Problem) -> Tensor:
        """Return one score a weight, the larger the better."""
        sizes = {name: value.abs() for name, value in problem.values_of(problem.weights).items()}
        found: Tensor = problem.layout.flatten({name: size / size.mean() ** self.power for name, size in sizes.items()})
        return found


def hesitant_kl(masked: MaskedBatch) -> Tensor:
    """Reverse KL, and a little reward for outputs that are not too sure. masked: one batch seen by both networks."""
    log_p = masked.sparse.log_softmax(dim=1)
    entropy = -(log_p.exp() * log_p).sum(dim=1).mean()
    found: Tensor = masked.task.divergence(masked.sparse, masked.dense, masked.batch) - 0.01 * entropy
    return found


@dataclass(frozen=True)
class PI(tombola.Part):
    """A proportional-integral controller of the expected density; its state is the sum of the errors so far."""

    proportional: float = tombola.option(10.0, "weight of the error")
    integral: float = tombola.option(0.05, "weight of the sum of errors")

    def init(self, logits: Tensor) -> State:
        """Return the state before the first step, for logits (d,)."""
        return {"sum": logits.new_zeros(())}

    def update(
        self, logits: Tensor, task_gradient: Tensor, target: Target, state: State
    ) -> tuple[Tensor, State, Figures]:
        """Return the optimiser's gradient, the next state and figures for the journal; nothing is overwritten."""
        gates = torch.sigmoid(logits)
        error = gates.mean() / target.density - 1
        total = state["sum"] + error
        slopes = gates * (1 - gates)
        push = slopes / slopes.norm().clamp(min=1e-20) * task_gradient.norm()
        multiplier = self.proportional * error + self.integral * total
        figures = {
            "multiplier": multiplier, "error": error, "task_norm": task_gradient.norm(), "density_norm": slopes.norm()
        }  # fmt: skip
        return task_gradient + multiplier * push, {"sum": total}, figures


def main(steps: int = 400) -> dict[str, tombola.Ticket]:
    """Draw tickets with each of them from a digits classifier that has been trained a little."""
    torch.manual_seed(0)
    x, y = map(torch.tensor, sklearn.datasets.load_digits(return_X_y=True))
    data = list(zip((x.float() / 16).split(128), y.split(128), strict=True))
    model = nn.Sequential(nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for inputs, targets in data * 5:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    return {
        "finder": tombola.draw(model, data, density=0.05, finder=RelativeMagnitude(power=0.5), progress=False),
        "objective": tombola.draw(model, data, density=0.05, steps=steps, objective=hesitant_kl, progress=False),
        "controller": tombola.draw(model, data, density=0.05, steps=steps, controller=PI(), progress=False),
    }


if __name__ == "__main__":
    for what, ticket in main().items():
        print(f"{what}: {ticket}")
