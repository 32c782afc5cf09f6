"""Plain modules, built for the shape of the data; models by name."""

from tombola.networks.models.base import Model
from tombola.networks.models.registry import MODELS, build
from tombola.networks.models.resnet import publish_batch_norm_
from tombola.networks.models.weights import load_into, read_weights, tensors_as_bytes, write_weights

# Raised when the same name gives another network.
VERSION = 1

__all__ = [
    "MODELS",
    "VERSION",
    "Model",
    "build",
    "load_into",
    "publish_batch_norm_",
    "read_weights",
    "tensors_as_bytes",
    "write_weights",
]
