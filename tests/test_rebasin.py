"""Tickets carried over to other weights: units matched, masks permuted, signs taken along."""

import copy

import pytest
import torch
from torch import nn

from tombola import Ticket
from tombola.finders.origins import with_signs
from tombola.networks.models import build
from tombola.networks.task import Task
from tombola.studies.audit.alterations import Impossible
from tombola.studies.audit.rebasin import Chain, correlation, matched
from tombola.studies.audit.report import Transfer
from tombola.training import State

from .conftest import CPU, mlp
from .test_audit import OURS
from .test_rivals import Three, problem


def plain_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(20, 7),
        nn.ReLU(), nn.Linear(7, 3),
    )  # fmt: skip


def shuffled(model, convolution, hidden):
    """The same function, its units in another order."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for module in (other[0], other[1]):
            module.weight.copy_(module.weight[convolution])
            module.bias.copy_(module.bias[convolution])
        blocks = (convolution[:, None] * 4 + torch.arange(4)).flatten()
        other[5].weight.copy_(other[5].weight[hidden][:, blocks])
        other[5].bias.copy_(other[5].bias[hidden])
        other[7].weight.copy_(other[7].weight[:, hidden])
    return other


def test_units_of_a_network_whose_units_were_shuffled_are_found_again():
    model = plain_net().eval()
    convolution, hidden = torch.tensor([3, 0, 4, 1, 2]), torch.tensor([6, 2, 0, 1, 5, 4, 3])
    other = shuffled(model, convolution, hidden)
    data = [(torch.randn(64, 1, 4, 4, generator=torch.Generator().manual_seed(1)), torch.zeros(64).long())]
    assert torch.allclose(model(data[0][0]), other(data[0][0]), atol=1e-6)
    chain = Chain.of(model, data[0][0])
    places = matched(*(chain.inputs(each, data, Task(), CPU) for each in (model, other)))
    alive = model[:6](data[0][0]).relu().std(dim=0) > 1e-3
    assert places["5"].tolist() == convolution.tolist()
    assert [p for p, h in zip(places["7"].tolist(), hidden.tolist(), strict=True) if alive[h]] == [
        h for h in hidden.tolist() if alive[h]
    ]
    # The mask of the first network's largest weights becomes that of the other's.
    names = [name for name, p in model.named_parameters() if p.dim() > 1]
    masks = {name: dict(model.named_parameters())[name].detach().abs() > 0.2 for name in names}
    expected = {name: dict(other.named_parameters())[name].detach().abs() > 0.2 for name in names}
    exact = {"5": convolution, "7": hidden}
    assert chain.permuted(Ticket(masks), exact) == Ticket(expected)


def test_correlation_by_hand():
    first = torch.tensor([[0.0, 1.0, 2.0, 3.0], [1.0, -1.0, 1.0, -1.0]]).double()
    found = correlation(first, torch.stack([-2 * first[0], first[1]]))
    assert found[0, 0].item() == pytest.approx(-1.0, abs=1e-3)
    assert found[1, 1].item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("make", [lambda: build("resnet20:width=4", (3, 8, 8), 10), lambda: nn.LSTM(3, 4)])
def test_what_is_no_chain_is_refused_in_one_sentence(make):
    with pytest.raises(Impossible, match="units are matched in chains of layers alone"):
        Chain.of(make().eval(), torch.zeros(2, 3, 8, 8) if "ResNet" in type(make()).__name__ else torch.zeros(2, 5, 3))


def test_signs_are_taken_along_and_sizes_are_new():
    of = problem(Three(), [(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0]]))], Task.regression())
    final = State.of(Three(a=-3.0, b=0.0, c=4.0))
    made = of.layout.flatten(with_signs(Three(a=0.7, b=-0.2, c=-0.1), final, of).tensors)
    # Where the final weight is zero, the new sign stays.
    assert made.tolist() == pytest.approx([-0.7, -0.2, 0.1])


def test_what_a_transfer_says():
    found = [Transfer.judged("a", 0.9, [value + shift for value in OURS], OURS).verdict for shift in (-5.0, 3.0, 0.0)]
    assert found == ["does not transfer", "transfers", "transfers"]
    assert Transfer("a", why="no chain").verdict == "not possible"


def test_a_mask_of_another_module_is_refused():
    chain = Chain.of(mlp().eval(), torch.zeros(2, 6))
    with pytest.raises(Impossible, match=r"9\.weight is of none"):
        chain.permuted(Ticket({"9.weight": torch.ones(2, 2).bool()}), {})
