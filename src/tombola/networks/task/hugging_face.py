"""Hugging Face models: batches are dictionaries of arguments, outputs have a loss of their own and one head or more."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tombola.core.numeric import at_least_float32, softmax_kl
from tombola.errors import UsageError
from tombola.networks.task.batches import Batch, Output, batch_size
from tombola.networks.task.classification import in_shape
from tombola.networks.task.labels import bernoulli_kl

# Heads that are scores of classes whatever the labels, and the axis of their classes.
CLASS_AXES = {
    "start_logits": 1,
    "end_logits": 1,
    "logits_per_image": 1,
    "logits_per_text": 1,
    "mc_logits": 1,
    "seq_relationship_logits": 1,
    "prediction_logits": -1,
    "lm_logits": -1,
}
# What has as many entries as the batch has samples, where there are no labels.
ARGUMENTS = ("input_ids", "decoder_input_ids", "pixel_values", "input_values", "input_features", "inputs_embeds")
# By how much the model's own loss may differ from ours of the same outputs, which half precision rounds.
LIKENESS = 0.05
UNTOLD = "the model's outputs do not say what to compare ({}): give Task(divergence=...), or take the objective loss"


class Head(NamedTuple):
    """One output: its name, whether it is of "classes", "labels" or "numbers", and the axis of the classes."""

    name: str
    kind: str
    axis: int


def forward_arguments(model: nn.Module, batch: Batch) -> Output:
    """Call the model with the batch's entries as arguments, and have it name what it returns."""
    if not isinstance(batch, Mapping):
        raise UsageError(f"a batch must be a dictionary of arguments, got {type(batch).__name__}; give another task=")
    unnamed = getattr(getattr(model, "config", None), "return_dict", None) is False
    return model(**{"return_dict": True, **batch}) if unnamed else model(**batch)


def samples(batch: Batch) -> int:
    """Return the number of samples: of labels, else of the first of the usual arguments."""
    for name in ("labels", "start_positions", *ARGUMENTS) if isinstance(batch, Mapping) else ():
        entry = batch.get(name)
        if isinstance(entry, list | tuple) or (isinstance(entry, Tensor) and entry.dim()):
            if not len(entry):
                raise UsageError("data gives a batch without samples")
            return len(entry)
    return batch_size(batch)


def entries(output: Output) -> dict[str, Any]:
    """Return what is in an output by name; in a tuple, a scalar in front is the loss, one other tensor the logits."""
    if isinstance(output, Mapping):
        return dict(output)
    if isinstance(output, Tensor):
        return {"logits": output}
    if not isinstance(output, tuple | list):
        return dict(vars(output)) if hasattr(output, "__dict__") else {}
    tensors = [entry for entry in output if isinstance(entry, Tensor)]
    found: dict[str, Any] = {"loss": tensors.pop(0)} if tensors and not tensors[0].dim() else {}
    return {
        **found,
        **({"logits": tensors[0]} if len(tensors) == 1 else {str(i): tensor for i, tensor in enumerate(tensors)}),
    }


def own_loss(output: Output, batch: Batch) -> Tensor:
    """The loss that the model computed; raises UsageError where it computed none."""
    loss = entries(output).get("loss")
    if not isinstance(loss, Tensor):
        raise UsageError("the model returned no loss: batches need labels, or the task another loss, Task(loss=...)")
    return loss


@dataclass(frozen=True)
class Heads:
    """Reads outputs by their heads. known: what these are, else each output and its batch are asked anew.

    classes, shift: of token or pixel labels, of how many classes those that count are, and how many of each sample's
    first tokens are none that the model foretells; None where labels are one a sample.
    """

    known: tuple[Head, ...] | None = None
    classes: int | None = None
    shift: int = 0

    def settled(self, output: Output, batch: Batch) -> "Heads":
        """Return the same with what one output and its batch tell; raises UsageError where they do not."""
        known = heads_of(output, batch)
        return replace(self, known=known, **_places(known, entries(output), batch))

    def divergence(self, output: Output, reference: Output, batch: Batch) -> Tensor:
        """Sum over heads of the means of their divergences, over samples and over the tokens that are no padding."""
        found, other = entries(output), entries(reference)
        heads = self.known or heads_of(output, batch)
        return torch.stack([_divergence(h, found[h.name], other[h.name], found, batch) for h in heads]).sum()

    def metric(self, output: Output, batch: Batch) -> Tensor:
        """Accuracy where there is one label a sample, or the fraction of right labels, else the loss, sign turned."""
        logits, labels = entries(output).get("logits"), batch.get("labels")
        if isinstance(logits, Tensor) and isinstance(labels, Tensor) and logits.dim() == 2:
            if self._are_labels(output, batch):
                return ((logits > 0) == (labels.reshape(logits.shape) > 0)).double().mean()
            if labels.dim() == 1 and logits.shape[1] > 1 and not labels.is_floating_point():
                return (logits.argmax(dim=-1) == labels).double().mean()
        return -own_loss(output, batch)

    def _are_labels(self, output: Output, batch: Batch) -> bool:
        if self.known is not None:
            return [head.kind for head in self.known] == ["labels"]
        kinds = batch["labels"].numel() == entries(output)["logits"].numel()
        return kinds and [head.kind for head in heads_of(output, batch)] == ["labels"]

    def prediction(self, output: Output) -> Tensor:
        """Softmax, sigmoid or the numbers of all heads, beside each other (N, ...)."""
        found = entries(output)
        parts = [_prediction(head, found[head.name]) for head in self.known or _named(found, None)]
        return parts[0] if len(parts) == 1 else torch.cat([part.flatten(1) for part in parts], dim=1)

    def counted(self, batch: Batch) -> int:
        """Return over how many items the loss is a mean: tokens or pixels with a label, where known, else samples."""
        if self.classes is None:
            return samples(batch)
        labels = batch["labels"][:, self.shift :]
        return int(((labels >= 0) & (labels < self.classes)).sum())


def heads_of(output: Output, batch: Batch) -> tuple[Head, ...]:
    """Return the heads of an output; raises UsageError where output, labels and loss do not tell what they are."""
    found = entries(output)
    return _named(found, batch)


def _named(found: Mapping[str, Any], batch: Batch | None) -> tuple[Head, ...]:
    tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    known = {name: tensors[name] for name in tensors if name == "logits" or name in CLASS_AXES}
    strange = [str(n) for n in tensors if n not in known and str(n).endswith(("logits", "pred_boxes", "pred_masks"))]
    if strange or not known:
        raise UsageError(UNTOLD.format(", ".join(strange or [str(name) for name in found if name != "loss"]) or "none"))
    return tuple(
        _head_of_logits(tensors[name], found.get("loss"), batch)
        if name == "logits"
        else Head(name, "classes", CLASS_AXES[name])
        for name in known
    )


def _head_of_logits(logits: Tensor, loss: Any, batch: Batch | None) -> Head:
    """Return the head called logits; batch: None where its labels are not to be had, nor the loss to be believed."""
    if logits.dim() < 2:
        raise UsageError(UNTOLD.format(f"logits {in_shape(logits)}"))
    axis = -1 if logits.dim() == 3 else 1
    if batch is None:
        return Head("logits", "classes" if logits.shape[axis] > 1 else "numbers", axis)
    labels = batch.get("labels")
    if isinstance(labels, Tensor):
        if labels.is_floating_point() or logits.shape[axis] == 1:
            return Head("logits", _kind_by_loss(logits, loss, labels), axis)
        axes = [i for i in range(1, logits.dim()) if logits.shape[:i] + logits.shape[i + 1 :] == labels.shape]
        return Head("logits", "classes", axes[0] if len(axes) == 1 else axis)
    if loss is not None or logits.shape[axis] == 1:  # of itself, or by labels of another kind: no classes to be sure of
        raise UsageError(UNTOLD.format(f"logits {in_shape(logits)} without labels for them"))
    return Head("logits", "classes", axis)


@torch.no_grad()
def _kind_by_loss(logits: Tensor, loss: Any, labels: Tensor) -> str:
    """Return "labels" or "numbers", whichever has the loss that the model computed."""
    if isinstance(loss, Tensor) and labels.numel() == logits.numel():
        values, targets = logits.float().flatten(), labels.float().flatten()
        distances = {"numbers": F.mse_loss(values, targets)}
        if ((targets >= 0) & (targets <= 1)).all():
            distances["labels"] = F.binary_cross_entropy_with_logits(values, targets)
        kind = min(distances, key=lambda name: float((distances[name] - loss.float()).abs()))
        if abs(float(distances[kind]) - float(loss)) <= LIKENESS * abs(float(loss)):
            return kind
    raise UsageError(UNTOLD.format(f"logits {in_shape(logits)}, labels {in_shape(labels)}, and no loss that fits them"))


@torch.no_grad()
def _places(heads: tuple[Head, ...], found: Mapping[str, Any], batch: Batch) -> dict[str, int]:
    """Return the fields `classes` and `shift` of Heads for labels of tokens or pixels, none for others."""
    labels = batch.get("labels")
    if [head[:2] for head in heads] != [("logits", "classes")] or not isinstance(labels, Tensor):
        return {}
    logits, axis = at_least_float32(found["logits"]), heads[0].axis
    if labels.dim() < 2 or labels.dim() != logits.dim() - 1:
        return {}
    classes = logits.shape[axis]
    if logits.dim() > 3:
        return {"classes": classes}
    distances = {shift: _distance(logits.movedim(axis, 1), labels, found.get("loss"), shift) for shift in (0, 1)}
    shift = min(distances, key=lambda shift: distances[shift])
    return {"classes": classes, "shift": shift} if distances[shift] <= LIKENESS else {}


def _distance(scores: Tensor, labels: Tensor, loss: Any, shift: int) -> float:
    """Return by what share a loss differs from the cross-entropy of tokens' scores (N, C, T), foretold or not."""
    shifted, targets = scores[:, :, : scores.shape[2] - shift], labels[:, shift:]
    if not isinstance(loss, Tensor) or shifted.shape[2:] != targets.shape[1:]:
        return math.inf
    ours = float(F.cross_entropy(shifted, targets, ignore_index=-100))
    return abs(ours - float(loss)) / max(abs(ours), 1e-9)


def _divergence(head: Head, output: Tensor, reference: Tensor, found: Mapping[str, Any], batch: Batch) -> Tensor:
    if head.kind == "numbers":
        return F.mse_loss(output.float(), reference.float())
    if head.kind == "labels":
        return bernoulli_kl(output, reference).mean()
    values = softmax_kl(output, reference, dim=head.axis)
    unpadded = _no_padding(found, batch)
    if unpadded is None or unpadded.shape != values.shape:
        return values.mean()
    return (values * unpadded).sum() / unpadded.sum().clamp(min=1)


def _no_padding(found: Mapping[str, Any], batch: Batch) -> Tensor | None:
    """Return which tokens count; the attention mask of a model that encodes and decodes is of what it encodes."""
    if "encoder_last_hidden_state" not in found:
        unpadded: Tensor | None = batch.get("attention_mask")
    else:
        labels = batch.get("labels")
        unpadded = batch.get("decoder_attention_mask", None if labels is None else labels != -100)
    return unpadded


def _prediction(head: Head, output: Tensor) -> Tensor:
    if head.kind == "classes":
        return at_least_float32(output).softmax(dim=head.axis)
    return at_least_float32(output).sigmoid() if head.kind == "labels" else output
