"""Models by name: ours, torchvision's, and the user's own."""

import inspect
from collections.abc import Callable
from functools import partial

from torch import nn

from tombola.errors import UsageError
from tombola.models.lenet import lenet_300_100
from tombola.models.resnet import resnet
from tombola.models.vgg import vgg16
from tombola.plugins import imported_function

Builder = Callable[[tuple[int, ...], int], nn.Module]

MODELS: dict[str, Builder] = {
    "lenet-300-100": lenet_300_100,
    "resnet20": partial(resnet, 20),
    "resnet20-w8": partial(resnet, 20, width=8),
    "resnet32": partial(resnet, 32),
    "resnet56": partial(resnet, 56),
    "vgg16": vgg16,
}
_ALLOWED = f"{', '.join(MODELS)}, a classifier of torchvision, or MODULE:FUNCTION"


def builder(name: str) -> Builder:
    """Return what builds a model from the shape of one input and the number of classes.

    name: one of ours, one of torchvision's, or "package.module:function", whose function takes (shape, classes) or
    nothing. Raises UsageError listing what is allowed.
    """
    if name in MODELS:
        return MODELS[name]
    if ":" in name:
        return _own(name)
    from torchvision import models

    # Those for images and labels: detection and segmentation have modules of their own.
    if name not in models.list_models(models):
        raise UsageError(f"--model {name!r} is unknown; allowed are {_ALLOWED}")
    # torchvision's classifiers take their number of classes by name, and images of three channels only.
    return lambda shape, classes: models.get_model(name, num_classes=classes)


def build(name: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return a freshly initialised model for inputs of `shape`."""
    model = builder(name)(shape, classes)
    if not isinstance(model, nn.Module):
        raise UsageError(f"--model {name}: the function must return a torch.nn.Module, got {type(model).__name__}")
    return model


def _own(name: str) -> Builder:
    function = imported_function("model", name)
    takes = len(inspect.signature(function).parameters)

    def call(shape: tuple[int, ...], classes: int) -> nn.Module:
        return function(shape, classes) if takes else function()

    return call
