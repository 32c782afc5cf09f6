"""Concrete Ticket Search on one page: the published method, plainly, on scikit-learn's digits. Runs in seconds.

Arora and Teuscher, arXiv 2512.07142. Symbols: d prunable weights θ, a logit a for each, a mask z sampled from them,
density κ = k/d, temperature τ, objective R, density error e, its multiplier λ. Everything here is one obvious tensor a
layer; the library does the same arithmetic on one flat vector, and a test holds the two against each other.
"""

import copy

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call

TEMPERATURE = 2 / 3


class PlainSearch:
    """Reverse KL with GradBalance: the weights stay frozen, the logits learn."""

    def __init__(
        self, model: nn.Module, names: list[str], density: float, learning_rate: float = 0.1, epsilon: float = 1e-10
    ) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.teacher = copy.deepcopy(self.model)
        # A sparse network needs other statistics than the dense one's running ones: those of each batch.
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.track_running_stats = False
                module.running_mean = module.running_var = module.num_batches_tracked = None
        self.density, self.multiplier = density, 0.0
        weights = {name: self.model.get_parameter(name) for name in names}
        start = torch.logit(torch.tensor(density, dtype=torch.float64)).item()
        self.logits = {name: torch.full_like(w, start, requires_grad=True) for name, w in weights.items()}
        self.total = sum(logits.numel() for logits in self.logits.values())
        # Published runs multiply R by 100; to Adam that is a hundredth of its epsilon of 1e-8.
        self.optimizer = torch.optim.Adam(self.logits.values(), lr=learning_rate, eps=epsilon)

    def sample(self, noise: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return masks z = σ(logit(u)/τ + a) for uniform noise u: the binary Concrete relaxation."""
        return {
            name: torch.sigmoid(torch.logit(noise[name].clamp(1e-10, 1 - 2**-24)) / TEMPERATURE + logits)
            for name, logits in self.logits.items()
        }

    def step(self, images: Tensor, noise: dict[str, Tensor] | None = None) -> float:
        """Take one step on a batch and return R = KL(softmax f_z || softmax f)."""
        noise = noise or {name: torch.rand_like(logits) for name, logits in self.logits.items()}
        masked = {name: z * self.model.get_parameter(name) for name, z in self.sample(noise).items()}
        sparse = F.log_softmax(functional_call(self.model, masked, (images,)), dim=1)
        with torch.no_grad():
            dense = F.log_softmax(self.teacher(images), dim=1)
        objective = (sparse.exp() * (sparse - dense)).sum(dim=1).mean()
        task = torch.autograd.grad(objective, list(self.logits.values()))
        self.optimizer.zero_grad()
        for logits, gradient in zip(self.logits.values(), self.balanced(task), strict=True):
            logits.grad = gradient
        self.optimizer.step()
        return float(objective.detach())

    def balanced(self, task: tuple[Tensor, ...]) -> list[Tensor]:
        """Add λ ∂e/∂a to the task's gradient, λ a slow average of the ratio of their norms: GradBalance."""
        logits = list(self.logits.values())
        aim = min(1.1 * self.density, (1 + self.density) / 2)  # the final cut clips what is above κ
        error = torch.cat([torch.sigmoid(a).flatten() for a in logits]).mean() / aim - 1
        steering = torch.autograd.grad(error, logits)
        task_norm, density_norm = (torch.cat([g.flatten() for g in gs]).norm() for gs in (task, steering))
        wanted = float(task_norm / density_norm) if float(error.detach()) > 0 else 0.0
        self.multiplier = 0.99 * self.multiplier + 0.01 * wanted
        return [g + self.multiplier * s for g, s in zip(task, steering, strict=True)]

    def ticket(self) -> dict[str, Tensor]:
        """Return the mask of the k = floor(κ d + ½) largest logits."""
        flat = torch.cat([a.detach().flatten() for a in self.logits.values()])
        kept = torch.zeros_like(flat, dtype=torch.bool)
        kept[torch.sort(flat, descending=True, stable=True).indices[: int(self.density * self.total + 0.5)]] = True
        parts = kept.split([a.numel() for a in self.logits.values()])
        return {name: part.view_as(a) for (name, a), part in zip(self.logits.items(), parts, strict=True)}


def train(
    model: nn.Module, images: Tensor, labels: Tensor, epochs: int, masks: dict[str, Tensor] | None = None
) -> None:
    """Train in place by SGD; what the masks prune is zero at the start and after every step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def prune() -> None:
        with torch.no_grad():
            for name, mask in (masks or {}).items():
                model.get_parameter(name).mul_(mask)

    prune()
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
            prune()


def main(steps: int = 600, density: float = 0.02) -> dict[str, float]:
    """Pretrain to the rewind point, search, train the ticket, and return test accuracies in percent."""
    torch.manual_seed(0)
    source = load_digits()
    images, labels = torch.tensor(source.data).float() / 16, torch.tensor(source.target)
    order = torch.randperm(len(images))
    seen, unseen = order[360:], order[:360]
    model = nn.Sequential(nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))
    train(model, images[seen], labels[seen], epochs=2)
    search = PlainSearch(model, ["0.weight", "2.weight", "4.weight"], density)
    for step in range(steps):
        for group in search.optimizer.param_groups:
            group["lr"] = 0.1 if step < steps * 4 // 5 else 0.01
        search.step(images[seen[torch.randint(len(seen), (256,))]])
    sparse = copy.deepcopy(model)
    train(model, images[seen], labels[seen], epochs=10)
    train(sparse, images[seen], labels[seen], epochs=10, masks=search.ticket())
    with torch.no_grad():
        hits = {n: m(images[unseen]).argmax(dim=1) == labels[unseen] for n, m in (("dense", model), ("ticket", sparse))}
    return {name: 100 * float(hit.float().mean()) for name, hit in hits.items()}


if __name__ == "__main__":
    for name, accuracy in main().items():
        print(f"{name}: {accuracy:.1f} %")
