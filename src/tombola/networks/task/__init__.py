"""How to use a model: Task and its presets."""

from tombola.core.measure import Measure
from tombola.networks.task.batches import Batch, Output, batch_size, exchanged
from tombola.networks.task.choice import settle_task
from tombola.networks.task.classification import smoothed_cross_entropy, softmax_divergence
from tombola.networks.task.core import Task
from tombola.networks.task.metrics import Measured, Pooled
from tombola.networks.task.named import TASKS, NamedTask

__all__ = [
    "TASKS",
    "Batch",
    "Measure",
    "Measured",
    "NamedTask",
    "Output",
    "Pooled",
    "Task",
    "batch_size",
    "exchanged",
    "settle_task",
    "smoothed_cross_entropy",
    "softmax_divergence",
]
