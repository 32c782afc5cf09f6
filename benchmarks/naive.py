"""Concrete Ticket Search written down plainly, the way one would write it first: the reference to be faster than.

fp32, contiguous, the teacher run at every step, one tensor of logits a layer, autograd through the mask. Kept for the
benchmarks alone.
"""

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call

TEMPERATURE = 2 / 3


class NaiveSearch:
    """Reverse KL with GradBalance on batches of images."""

    def __init__(self, model: nn.Module, names: list[str], density: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.track_running_stats = False
                module.running_mean = module.running_var = module.num_batches_tracked = None
        self.teacher = copy.deepcopy(model).eval().requires_grad_(False)
        self.density = density
        parameters = dict(self.model.named_parameters())
        start = float(torch.logit(torch.tensor(density)))
        self.logits = {name: torch.full_like(parameters[name], start, requires_grad=True) for name in names}
        self.optimizer = torch.optim.Adam(self.logits.values(), lr=0.1)
        self.total = sum(logits.numel() for logits in self.logits.values())
        self.multiplier = 0.0

    def masked(self) -> dict[str, Tensor]:
        """Return the weights under a fresh sample of masks."""
        weights = {}
        for name, logits in self.logits.items():
            noise = torch.rand_like(logits).clamp(1e-10, 1 - 2**-24)
            mask = torch.sigmoid(torch.logit(noise) / TEMPERATURE + logits)
            weights[name] = mask * self.model.get_parameter(name)
        return weights

    def step(self, images: Tensor) -> None:
        """Take one step."""
        with torch.no_grad():
            dense = torch.log_softmax(self.teacher(images), dim=1)
        sparse = torch.log_softmax(functional_call(self.model, self.masked(), (images,)), dim=1)
        objective = (sparse.exp() * (sparse - dense)).sum(dim=1).mean()
        task = torch.autograd.grad(objective, list(self.logits.values()))
        mean = sum(torch.sigmoid(logits).sum() for logits in self.logits.values()) / self.total
        error = mean / (1.1 * self.density) - 1
        density = torch.autograd.grad(error, list(self.logits.values()))
        task_norm = torch.cat([part.flatten() for part in task]).norm()
        density_norm = torch.cat([part.flatten() for part in density]).norm()
        wanted = float(task_norm / density_norm) if error.item() > 0 else 0.0
        self.multiplier = 0.99 * self.multiplier + 0.01 * wanted
        for logits, a, b in zip(self.logits.values(), task, density, strict=True):
            logits.grad = a + self.multiplier * b
        self.optimizer.step()
