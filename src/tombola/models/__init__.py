"""Plain modules, built for the shape of the data; models by name."""

from tombola.models.registry import MODELS, build, builder
from tombola.models.resnet import publish_batch_norm_
from tombola.models.weights import load_into, read_weights, tensors_as_bytes, unshared, write_weights

__all__ = [
    "MODELS",
    "build",
    "builder",
    "load_into",
    "publish_batch_norm_",
    "read_weights",
    "tensors_as_bytes",
    "unshared",
    "write_weights",
]
