"""What the tests of sparse networks share: masks drawn at random, and the comparison with PyTorch in float64."""

import copy

import pytest
import torch

from tombola.sparse.network import SparseNetwork
from tombola.sparse.rules import LayerCost


@pytest.fixture
def every_layer_sparse(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(LayerCost, "is_lower_sparse", property(lambda self: True))


def masks_of(model, density, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(parameter.shape, generator=generator) < density
        for name, parameter in model.named_parameters()
        if parameter.dim() > 1
    }


def masked(model, masks):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in masks:
                parameter.mul_(masks[name])
            elif parameter.dim() == 1:  # off the kinks of ReLU, where either side is right
                parameter.add_(torch.linspace(0.1, 0.4, len(parameter)))
    return model


def agree(found, wanted, size=1.0):
    assert found.shape == wanted.shape
    if wanted.numel():
        wanted = wanted.detach()
        assert (found.detach() - wanted).abs().max() <= 2e-5 * max(float(wanted.abs().max()), size)


def check(model, x, masks):
    """Outputs, and gradients of inputs, kept weights and other parameters, in both modes; running statistics."""
    model = masked(model, masks)
    exact = copy.deepcopy(model).double()
    sparse = SparseNetwork(model, masks, x[:2])
    before = [buffer.clone() for buffer in model.buffers()]
    for training in (True, False):
        sparse.train(training), exact.train(training)
        ours, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
        parameters = sparse.trained_parameters()
        for parameter in (*parameters, *exact.parameters()):
            parameter.grad = None
        out, wanted = sparse(ours), exact(theirs)
        agree(out, wanted)
        with torch.no_grad():
            if not training:
                agree(sparse(x), wanted)
        direction = torch.linspace(-1, 1, out.numel()).view(out.shape)
        out.backward(direction), wanted.backward(direction.double())
        agree(ours.grad, theirs.grad)
        size = max(float(p.grad.abs().max()) for p in exact.parameters() if p.grad is not None and p.numel())
        for (name, parameter), mine in zip(exact.named_parameters(), parameters, strict=True):
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            gradient = sparse.gather(name, gradient) if name in masks else gradient
            agree(mine.grad, gradient, size)
    for ours, theirs, first in zip(sparse.dense.buffers(), exact.buffers(), before, strict=True):
        agree(ours.double(), torch.where(ours == first, ours, theirs))  # what nothing reads stays as it is
