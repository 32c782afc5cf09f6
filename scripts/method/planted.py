"""Check 3: masks whose best is known: a sparse network planted in a larger one, and all masks of a tiny one.

usage: python scripts/method/planted.py OUT_DIR; some minutes on two cores.
"""

import itertools
import sys
from pathlib import Path
from typing import Any

import torch
from common import picture, spread, table, write
from torch import Tensor, nn

import tombola
from tombola import CTS, ProportionalBalance, Task
from tombola.networks.masking import survey
from tombola.networks.network import FrozenNetwork
from tombola.networks.runtime import Runtime
from tombola.objectives import Loss, ReverseKL

SEEDS = range(5)
HIDDEN, INPUTS, OUTPUTS = 40, 20, 10
# What is planted: in the first layer alone, every hidden unit with this many of its inputs; or in both layers, this
# many hidden units, each with 4 inputs and 3 outputs, so that the search must also find which units they are.
PLANTED = {"wiring": (1, 2, 5, 10), "units": (2, 5, 10, 20)}
CONTROLLERS = (tombola.GradBalance(), ProportionalBalance())
PUBLISHED = CTS(objective=ReverseKL(), controller=CONTROLLERS[0], lr_schedule="drop")
KEPT_OF_16 = (4, 6, 8, 10, 12)


def mlp(inputs: int, hidden: int, outputs: int, seed: int) -> nn.Sequential:
    """Return a network without biases whose weights all matter: their sizes lie between 0.5 and 1.5."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(inputs, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, outputs, bias=False))
    with torch.no_grad():
        for parameter in model.parameters():
            size = 0.5 + torch.rand(parameter.shape, generator=generator)
            parameter.copy_(size * (torch.randint(2, parameter.shape, generator=generator) * 2 - 1))
    return model


def plant(kind: str, size: int, seed: int) -> dict[str, Tensor]:
    """Return a mask every weight of which lies on a path, for the layers in which it is planted."""
    generator = torch.Generator().manual_seed(1000 + seed)
    first = torch.zeros(HIDDEN, INPUTS, dtype=torch.bool)
    if kind == "wiring":
        for unit in range(HIDDEN):
            first[unit, torch.randperm(INPUTS, generator=generator)[:size]] = True
        return {"0.weight": first}
    second = torch.zeros(OUTPUTS, HIDDEN, dtype=torch.bool)
    for unit in torch.randperm(HIDDEN, generator=generator)[:size]:
        first[unit, torch.randperm(INPUTS, generator=generator)[:4]] = True
        second[torch.randperm(OUTPUTS, generator=generator)[:3], unit] = True
    return {"0.weight": first, "2.weight": second}


@torch.no_grad()
def answers(model: nn.Module, masks: dict[str, Tensor], seed: int) -> list[tuple[Tensor, Tensor]]:
    """Return batches of inputs with the planted network's outputs as targets."""
    generator = torch.Generator().manual_seed(2000 + seed)
    planted = {name: masks.get(name, 1) * parameter for name, parameter in model.named_parameters()}
    inputs = torch.randn(8, 512, INPUTS, generator=generator)
    return [(x, torch.func.functional_call(model, planted, (x,))) for x in inputs]


def recover(kind: str, size: int, seed: int) -> dict[str, Any]:
    """Search for the planted mask by the squared error to its outputs, and count what was found."""
    model, masks = mlp(INPUTS, HIDDEN, OUTPUTS, seed), plant(kind, size, seed)
    data = answers(model, masks, seed)
    planted = sum(int(mask.sum()) for mask in masks.values())
    density = planted / sum(mask.numel() for mask in masks.values())
    found = {"kind": kind, "size": size, "seed": seed, "planted": planted, "density": density}
    for controller in CONTROLLERS:
        ticket = tombola.draw(
            model,
            data,
            density=density,
            include=list(masks),
            task=Task.regression(),
            finder=CTS(objective=Loss(), controller=controller, lr_schedule="drop"),
            seed=seed,
            progress=False,
        )
        right = sum(int((ticket[name] & mask).sum()) for name, mask in masks.items())
        found[controller.name] = right / planted
    return found


def enumerate_all(seed: int) -> list[dict[str, Any]]:
    """Compare CTS with every mask of a trained network of 16 weights, by reverse KL on the same data."""
    generator = torch.Generator().manual_seed(3000 + seed)
    inputs = torch.randn(512, 4, generator=generator)
    model = mlp(4, 2, 4, 4000 + seed)
    targets = model(inputs).argmax(dim=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    found = []
    for kept in KEPT_OF_16:
        values = divergences_of_all(model, inputs, kept)
        ticket = tombola.draw(
            model, [(inputs, targets)], density=kept / 16, finder=PUBLISHED, seed=seed, progress=False
        )
        mask = torch.cat([ticket[name].flatten() for name in ("0.weight", "2.weight")])
        value = values[tuple(mask.tolist())]
        ranked = sorted(values.values())
        figures = {"rank": 1 + sum(other < value for other in ranked), "value": value, "best": ranked[0]}
        found.append({"seed": seed, "kept": kept, "masks": len(ranked), "median": ranked[len(ranked) // 2]} | figures)
    return found


@torch.no_grad()
def divergences_of_all(model: nn.Module, inputs: Tensor, kept: int) -> dict[tuple[bool, ...], float]:
    """Return the reverse KL of every mask that keeps `kept` of 16 weights."""
    layout, task = survey(model).layout, Task()
    network = FrozenNetwork(model, layout, task, Runtime.choose(model, "cpu"))
    batch = (inputs, torch.zeros(len(inputs), dtype=torch.long))
    dense, values = network.dense(batch), {}
    for chosen in itertools.combinations(range(16), kept):
        mask = torch.zeros(16)
        mask[list(chosen)] = 1
        output = network.under(mask * network.weights, batch)
        values[tuple(mask.bool().tolist())] = float(task.divergence(output, dense, batch))
    return values


def main(out: Path) -> None:
    """Run everything, write JSON and a picture, print the tables."""
    torch.set_num_threads(1)
    planted = [recover(kind, size, seed) for kind, sizes in PLANTED.items() for size in sizes for seed in SEEDS]
    write(out, "planted", planted)
    small = [row for seed in SEEDS for row in enumerate_all(seed)]
    write(out, "enumerated", small)
    picture(out / "planted.svg", 2, lambda axes: draw(axes, planted, small))
    cells = [
        [row for row in planted if (row["kind"], row["size"]) == (kind, size)]
        for kind, sizes in PLANTED.items()
        for size in sizes
    ]
    table(
        ("planted", "density", "weights", "found, GradBalance (%)", "found, ProportionalBalance (%)"),
        [
            [rows[0]["kind"], f"{100 * rows[0]['density']:.3g} %", str(rows[0]["planted"])]
            + [spread((100 * row[controller.name] for row in rows), 1) for controller in CONTROLLERS]
            for rows in cells
        ],
    )
    table(
        ("kept of 16", "masks", "rank of CTS, by seed", "KL of CTS", "best KL", "median KL"),
        [
            [str(kept), f"{rows[0]['masks']:,}", ", ".join(str(row["rank"]) for row in rows)]
            + [spread((row[key] for row in rows), 4) for key in ("value", "best", "median")]
            for kept in KEPT_OF_16
            for rows in [[row for row in small if row["kept"] == kept]]
        ],
    )


def draw(axes: Any, planted: list[dict[str, Any]], small: list[dict[str, Any]]) -> None:
    """Plot what was found of planted masks, and CTS's value against the best of all masks."""
    markers = iter("osD^")
    for kind in PLANTED:
        rows = [row for row in planted if row["kind"] == kind]
        for controller in CONTROLLERS:
            points = [(100 * row["density"], 100 * row[controller.name]) for row in rows]
            axes[0].plot(*zip(*points, strict=True), next(markers), label=f"{kind}, {controller.name}", alpha=0.6)
    axes[0].set(xlabel="density (%)", ylabel="planted weights found (%)", ylim=(0, 102))
    axes[0].legend(loc="lower right")
    for key, label, marker in (
        ("median", "median of all masks", "o"),
        ("value", "CTS", "s"),
        ("best", "best of all masks", "D"),
    ):
        axes[1].plot([r["kept"] for r in small], [r[key] for r in small], marker, label=label, alpha=0.6)
    axes[1].set(xlabel="weights kept of 16", ylabel="KL(sparse ‖ dense)", yscale="log")
    axes[1].legend()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
