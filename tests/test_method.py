"""The method's small checks (docs/method.md has them at full size): planted masks, and all masks of a tiny network."""

import itertools
import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import tombola
from tombola import CTS, GradBalance, ProportionalBalance, Task
from tombola.networks.masking import survey
from tombola.networks.network import FrozenNetwork
from tombola.networks.runtime import Runtime

from .conftest import batches, mlp, train

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("controller", [GradBalance(), ProportionalBalance()])
@pytest.mark.parametrize("inputs_each", [1, 4])
def test_a_planted_mask_is_found(controller, inputs_each):
    generator = torch.Generator().manual_seed(inputs_each)
    torch.manual_seed(inputs_each)
    model = nn.Sequential(nn.Linear(12, 16, bias=False), nn.ReLU(), nn.Linear(16, 8, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.where(model[0].weight > 0, 1.0, -1.0) * (0.5 + torch.rand(16, 12)))
    planted = torch.zeros(16, 12, dtype=torch.bool)
    for unit in range(16):
        planted[unit, torch.randperm(12, generator=generator)[:inputs_each]] = True
    x = torch.randn(4, 256, 12, generator=generator)
    with torch.no_grad():
        data = [
            (each, torch.func.functional_call(model, {"0.weight": planted * model[0].weight}, (each,))) for each in x
        ]
    ticket = tombola.draw(
        model, data, density=inputs_each / 12, include="0.*", task=Task.regression(),
        finder=CTS(objective="loss", controller=controller, steps=500), progress=False,
    )  # fmt: skip
    assert torch.equal(ticket["0.weight"], planted)


# Gradients of so few weights vanish, and λ then swings; how good the ticket is, is the question here.
@pytest.mark.filterwarnings("ignore::tombola.errors.TicketWarning")
@pytest.mark.parametrize("seed", range(2))
def test_a_tiny_networks_ticket_is_among_the_best_of_all_masks(seed):
    model = train(mlp(inputs=3, hidden=2, classes=3, seed=seed), batches(2, size=256, inputs=3, seed=seed), epochs=60)
    data = batches(1, size=256, inputs=3, seed=seed)
    ticket = tombola.draw(model, data, density=0.5, objective="reverse-kl", steps=500, progress=False)
    layout, task = survey(model).layout, Task()
    assert layout.total == 12
    network = FrozenNetwork(model, layout, task, Runtime.choose(model, "cpu"))
    dense = network.dense(data[0])

    def divergence(mask):
        return float(task.divergence(network.under(mask * network.weights, data[0]), dense, data[0]))

    values = []
    for chosen in itertools.combinations(range(12), 6):
        mask = torch.zeros(12)
        mask[list(chosen)] = 1
        values.append(divergence(mask))
    reached = divergence(layout.flatten({name: mask.float() for name, mask in ticket.items()}))
    assert sum(value < reached for value in values) < 0.02 * len(values)


def test_the_page_and_its_files_agree():
    page = (ROOT / "docs" / "method.md").read_text()
    rows = json.loads((ROOT / "docs" / "method" / "balance.json").read_text())
    proportional = [row["expected"] for row in rows if row["controller"] == "proportional"]
    assert len(rows) == 90
    assert all(abs(value - 1) < 0.1 for value in proportional)
    for line in re.findall(
        r"^\| (digits|fashion-mnist-lenet) \| ([\d.]+) % \| (\w+) \| ([\d.]+) ±", page, re.MULTILINE
    ):
        preset, density, controller, expected = line
        cells = [
            row["expected"] for row in rows
            if (row["preset"], row["controller"]) == (preset, controller)
            and row["density"] == pytest.approx(float(density) / 100)
        ]  # fmt: skip
        assert sum(cells) / len(cells) == pytest.approx(float(expected), abs=0.006)
    for picture in re.findall(r"\]\((method/[^)]+)\)", page):
        assert (ROOT / "docs" / picture).exists()
