"""Hugging Face models: batches are dictionaries of arguments, outputs have .logits and a .loss of their own."""

from torch import Tensor, nn

from tombola.errors import UsageError
from tombola.numeric import at_least_float32, softmax_kl
from tombola.task.batches import Batch, Output


def forward_arguments(model: nn.Module, batch: Batch) -> Output:
    """Call the model with the batch's entries as arguments."""
    return model(**batch)


def own_loss(output: Output, batch: Batch) -> Tensor:
    """The loss that the model computed; raises UsageError where it computed none."""
    if getattr(output, "loss", None) is None:
        raise UsageError("the model returned no loss: batches need labels")
    return output.loss


def logits_divergence(output: Output, reference: Output, batch: Batch) -> Tensor:
    """KL of the softmaxes over the last axis, mean over samples and over the tokens that attention_mask keeps."""
    values = softmax_kl(output.logits, reference.logits, dim=-1)
    kept = batch.get("attention_mask")
    if kept is None or kept.shape != values.shape:
        return values.mean()
    return (values * kept).sum() / kept.sum()


def accuracy_or_loss(output: Output, batch: Batch) -> Tensor:
    """Accuracy where there is one label a sample, else the loss with its sign turned."""
    if output.logits.dim() == 2 and not batch["labels"].is_floating_point():
        return (output.logits.argmax(dim=-1) == batch["labels"]).double().mean()
    return -own_loss(output, batch)


def logits_probabilities(output: Output) -> Tensor:
    """Softmax of the logits over the last axis."""
    return at_least_float32(output.logits).softmax(dim=-1)
