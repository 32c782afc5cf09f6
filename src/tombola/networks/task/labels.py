"""Labels that are there or not, each on its own: one a sample (binary), or several (multi-label)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tombola.core.numeric import at_least_float32
from tombola.errors import UsageError
from tombola.networks.task.batches import Batch, Output
from tombola.networks.task.classification import in_shape, targets_of


def bernoulli_kl(output: Tensor, reference: Tensor) -> Tensor:
    """Return KL( Bernoulli(σ(output)) || Bernoulli(σ(reference)) ) for each of two equally shaped sets of logits."""
    output, reference = at_least_float32(output), at_least_float32(reference)
    there = output.sigmoid() * (F.logsigmoid(output) - F.logsigmoid(reference))
    return there + (-output).sigmoid() * (F.logsigmoid(-output) - F.logsigmoid(-reference))


class ManyLabels:
    """Means over all labels of all samples. Outputs are logits (N, L, ...), targets 0 or 1, of the same shape."""

    def loss(self, output: Output, batch: Batch) -> Tensor:
        """Binary cross-entropy; raises UsageError for a target that is neither 0 nor 1."""
        logits, targets = self._fitted(output, batch)
        wrong = targets[(targets != 0) & (targets != 1)]
        if wrong.numel():
            raise UsageError(
                f"data has the target {float(wrong[0]):g} where labels are 0 or 1; give task=Task.regression() for "
                "numbers, or Task(loss=..., divergence=..., metric=...)"
            )
        return F.binary_cross_entropy_with_logits(logits, targets)

    def divergence(self, output: Output, reference: Output, batch: Batch) -> Tensor:
        """KL between the Bernoulli distributions of the labels."""
        return bernoulli_kl(self._logits(output), reference).mean()

    def accuracy(self, output: Output, batch: Batch) -> Tensor:
        """Fraction of labels on whose side of 0 the output lies."""
        logits, targets = self._fitted(output, batch)
        return ((logits > 0) == (targets > 0)).double().mean()

    def counts(self, output: Output, batch: Batch) -> Tensor:
        """Return how many labels are rightly, wrongly and wrongly not found there, for the F1 of all together."""
        logits, targets = self._fitted(output, batch)
        found, there = logits > 0, targets > 0
        return torch.stack([(found & there).sum(), (found & ~there).sum(), (~found & there).sum()]).cpu()

    def probabilities(self, output: Output) -> Tensor:
        """Sigmoid of each output."""
        return self._logits(output).sigmoid()

    def _fitted(self, output: Output, batch: Batch) -> tuple[Tensor, Tensor]:
        logits, targets = self._logits(output), targets_of(batch)
        if self._plain(logits).shape != self._plain(targets).shape:
            raise UsageError(
                f"data's targets {in_shape(targets)} do not fit the model's outputs {in_shape(output)}: every output "
                "needs a target"
            )
        return logits, targets.reshape(logits.shape).to(logits.dtype)

    def _plain(self, values: Tensor) -> Tensor:
        return values

    def _logits(self, output: Output) -> Tensor:
        if not isinstance(output, Tensor) or output.dim() < 2:
            raise UsageError(f"the model's output, {in_shape(output)}, is no batch of logits (samples, labels, ...)")
        return at_least_float32(output)


class OneLabel(ManyLabels):
    """The same with one label a sample or a pixel: outputs (N,) or (N, 1, ...), targets of either shape."""

    def _plain(self, values: Tensor) -> Tensor:
        return values.squeeze(1) if values.dim() > 1 else values

    def _logits(self, output: Output) -> Tensor:
        if not isinstance(output, Tensor) or not output.dim() or (output.dim() > 1 and output.shape[1] != 1):
            raise UsageError(
                f"the model's output, {in_shape(output)}, is not one logit a sample, (samples,) or (samples, 1, ...); "
                "give task=Task.multi_label() for several labels, Task() for classes that exclude each other"
            )
        return at_least_float32(output)
