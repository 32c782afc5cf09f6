"""Pruned weights that come alive outside of the steps that a ticket is attached to."""

import warnings

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import tombola
from tombola import Ticket, TicketWarning, UsageError
from tombola.networks.masking import Attachment

from .conftest import batches, mlp


def ticket():
    """Keeps every second weight of the tests' network."""
    shapes = {"0.weight": (8, 6), "2.weight": (3, 8)}
    return Ticket({name: (torch.arange(a * b) % 2 == 0).view(a, b) for name, (a, b) in shapes.items()})


def alive(model):
    return sum(int(model.get_parameter(name)[~mask].count_nonzero()) for name, mask in ticket().items())


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


class SAM(torch.optim.Optimizer):
    """Steps to the worst point nearby, and from there back and on."""

    def __init__(self, parameters, base, rho=0.5):
        super().__init__(parameters, {"rho": rho})
        self.base_optimizer = base(self.param_groups)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self):
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["old"] = p.data.clone()
                p.add_(p.grad, alpha=group["rho"])

    @torch.no_grad()
    def second_step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.data = self.state[p]["old"]
        self.base_optimizer.step()


def momentum(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def test_a_two_step_optimiser_never_leaves_the_subnetwork():
    model = mlp()
    optimizer = SAM(model.parameters(), momentum)
    seen = []
    with ticket().attach(model, optimizer):
        for batch in batches(3):
            for step in (optimizer.first_step, optimizer.second_step):
                optimizer.zero_grad()
                seen.append(alive(model))
                loss(model, batch).backward()
                step()
    assert seen == [0] * 6
    assert not any(model.get_parameter(name).grad[~mask].any() for name, mask in ticket().items())
    assert alive(model) == 0
    assert "first_step" not in vars(optimizer)
    optimizer.zero_grad()
    loss(model, batches(1)[0]).backward()
    optimizer.first_step()
    assert alive(model) > 0, "detach() must let go"


class Lookahead:
    """Wraps an optimiser and writes slow weights every second step; has no hooks."""

    def __init__(self, inner, name="optimizer"):
        setattr(self, name, inner)
        self._inner, self._steps = inner, 0
        self.slow = [p.detach().clone() for group in inner.param_groups for p in group["params"]]

    @property
    def param_groups(self):
        return self._inner.param_groups

    def zero_grad(self):
        self._inner.zero_grad()

    def step(self):
        self._inner.step()
        self._steps += 1
        if self._steps % 2 == 0:
            fast = [p for group in self._inner.param_groups for p in group["params"]]
            for slow, p in zip(self.slow, fast, strict=True):
                slow.add_(p.detach() - slow, alpha=0.5)
                p.data.copy_(slow)


@pytest.mark.parametrize("names", [["optimizer"], ["base_optimizer"], ["optim"], ["optimizer", "optim"]])
def test_wrappers_are_looked_through_and_what_they_revive_is_said_once(names):
    model = mlp()
    wrapper = momentum(model.parameters())
    for name in names:
        wrapper = Lookahead(wrapper, name)  # made before: its slow weights are dense
    attachment = ticket().attach(model, wrapper)

    def train():
        for batch in batches(5):
            wrapper.zero_grad()
            loss(model, batch).backward()
            wrapper.step()
        attachment.detach()

    with pytest.warns(TicketWarning) as caught:
        train()
    assert len(caught) == 1
    text = str(caught[0].message)
    assert text.startswith("36 pruned weights of 0.weight, 2.weight came alive outside of the steps of the attached")
    assert alive(model) == 0


def loaded(model, other):
    model.load_state_dict(mlp(seed=1).state_dict())


def another(model, other):
    other.step()


def averaged(model, other):
    average = torch.optim.swa_utils.AveragedModel(mlp(seed=2))
    for p, mean in zip(model.parameters(), average.parameters(), strict=True):
        p.data.copy_(mean)


@pytest.mark.parametrize("way", [loaded, another, averaged])
@pytest.mark.parametrize("at", ["step", "detach"])
def test_what_comes_alive_between_steps_is_counted_and_put_back(way, at):
    model = mlp()
    optimizer, other = momentum(model.parameters()), momentum(model.parameters())
    attachment = ticket().attach(model, optimizer)
    loss(model, batches(1)[0]).backward()
    other.step()
    way(model, other)
    found = alive(model)
    assert found > 0
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(alive(model)))
    with pytest.warns(TicketWarning, match=f"^{found} pruned weights of 0.weight, 2.weight came alive") as caught:
        optimizer.step() if at == "step" else attachment.detach()
    assert alive(model) == 0
    assert seen == ([0] if at == "step" else []), "weights are zero before the step"
    way(model, other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attachment.detach()
    assert len(caught) == 1
    assert alive(model) == (0 if at == "step" else found)


def test_an_ordinary_training_warns_of_nothing():
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu")
    with ticket().attach(model, optimizer):
        for batch in batches(3):
            optimizer.zero_grad()
            scaler.scale(loss(model, batch)).backward()
            scaler.step(optimizer)
            scaler.update()
    assert alive(model) == 0


def test_fabrics_optimisers_and_averaged_models():
    from lightning_fabric import Fabric

    model = mlp()
    wrapped, optimizer = Fabric(accelerator="cpu", devices=1).setup(model, momentum(model.parameters()))
    average = torch.optim.swa_utils.AveragedModel(model)
    with ticket().attach(wrapped, optimizer):
        for batch in batches(3):
            optimizer.zero_grad()
            loss(wrapped, batch).backward()
            optimizer.step()
            average.update_parameters(model)
    assert alive(model) == 0
    assert alive(ticket().apply_(average).module) == 0


def test_what_is_no_optimiser_model_or_ticket_gets_a_sentence():
    model = mlp()
    for call, text in (
        (lambda: ticket().attach(3), r"model must be a torch\.nn\.Module, got 3"),
        (lambda: ticket().attach(model, 3), r"optimizer must be a torch\.optim\.Optimizer, or keep .* got 3"),
        (lambda: ticket().attach(model), "optimizer holds none of the ticket's parameters"),
        (lambda: ticket().apply_(None), r"model must be a torch\.nn\.Module, got None"),
        (lambda: ticket().check("x"), r"model must be a torch\.nn\.Module, got 'x'"),
        (lambda: Ticket(3), "masks must be a mapping from parameter names to bool tensors, got 3"),
        (lambda: Ticket({"0.weight": 3}), "masks must map parameter names to bool tensors, got 3 for '0.weight'"),
        (lambda: Ticket({0: torch.ones(1).bool()}), "masks must map parameter names to bool tensors"),
    ):
        with pytest.raises(UsageError, match=text):
            call()
    assert tombola.Ticket is Ticket


@pytest.mark.parametrize("places", [("cpu", "cuda"), ("cuda", "cpu")])
def test_the_mask_follows_a_model_that_moves(monkeypatch, places):
    """Of tensors that have a device and no numbers; so nothing can be told of what came alive."""
    monkeypatch.setattr(FakeTensor, "__bool__", lambda _: False, raising=False)
    with FakeTensorMode():
        model = nn.Linear(4, 3, device=places[0])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with Attachment(model, [optimizer], {"weight": torch.ones(3, 4, dtype=torch.bool)}):
            for parameter in model.parameters():
                parameter.fake_device = torch.empty(0, device=places[1]).device
            optimizer.step()
            optimizer.step(lambda: torch.zeros(()))
        assert model.weight.device.type == places[1]
