"""How to use a model: Task and its presets."""

from tombola.task.batches import Batch, Output, batch_size, exchanged
from tombola.task.choice import settle_task
from tombola.task.classification import smoothed_cross_entropy, softmax_divergence
from tombola.task.core import Task

__all__ = [
    "Batch",
    "Output",
    "Task",
    "batch_size",
    "exchanged",
    "settle_task",
    "smoothed_cross_entropy",
    "softmax_divergence",
]
