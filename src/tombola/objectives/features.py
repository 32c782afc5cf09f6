"""The objective that compares features: feature-mse."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tombola.core.numeric import at_least_float32
from tombola.core.parts import option
from tombola.networks.network import FrozenNetwork
from tombola.networks.task import Batch
from tombola.objectives.base import Objective
from tombola.objectives.gradients import SMALLEST_SPREAD
from tombola.objectives.masked_batch import MaskedBatch


@dataclass(frozen=True)
class FeatureMSE(Objective):
    """The mean over layers of the MSE between the standardised features of f_z and of f.

    Features are the output of each ReLU, or of each module that `features` names, and the prediction (softmax for
    classification); flattened and standardised sample by sample, but for a single number a sample, which has no spread.
    """

    name: ClassVar[str] = "feature-mse"
    version: ClassVar[int] = 2
    asks_network: ClassVar[bool] = True
    asks_task: ClassVar[tuple[str, ...]] = ("prediction",)
    forward: ClassVar[int] = 2
    over: ClassVar[str] = "samples"
    features: tuple[str, ...] = option(
        (),
        "globs of names of the modules that feature-mse compares",
        unset="every nn.ReLU",
        flag="features",
        group="search",
    )

    def __call__(self, masked: MaskedBatch) -> Tensor:
        """Return the mean over layers."""
        with masked.network.capture(self.features) as sparse:
            sparse_output = masked.network.masked(masked.mask, masked.batch)
        with masked.teacher.network.capture(self.features) as dense:
            dense_output = masked.teacher.network.dense(masked.batch)
        pairs = list(zip(sparse, dense, strict=True))
        pairs.append((masked.task.prediction(sparse_output), masked.task.prediction(dense_output)))
        return torch.stack([(_standardised(f) - _standardised(g)).square().mean() for f, g in pairs]).mean()

    def check(self, network: FrozenNetwork, batch: Batch) -> None:
        """Raise UsageError where no module is meant, or none that gives features."""
        with network.capture(self.features):
            network.dense(batch)


def _standardised(features: Tensor) -> Tensor:
    flat = at_least_float32(features.reshape(len(features), -1))
    if flat.shape[1] == 1:
        return flat
    # The square root of variance plus a little has a gradient where all features of a sample are alike (a dead layer).
    centred = flat - flat.mean(dim=1, keepdim=True)
    variance = centred.square().sum(dim=1, keepdim=True) / max(flat.shape[1] - 1, 1)
    return centred / (variance + SMALLEST_SPREAD).sqrt()
