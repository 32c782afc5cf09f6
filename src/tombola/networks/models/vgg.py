"""VGG-16 with BatchNorm for small images (Simonyan and Zisserman 2015), as the paper uses it."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from tombola.core.parts import Part
from tombola.networks.models.resnet import kaiming_normal_

# Channels of each convolution; four max-pools in between, global average pooling behind.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


@dataclass(frozen=True)
class VGG16(Part):
    """VGG-16 with one linear layer, `classifier`.

    13 convolutions without bias hold 14,710,464 weights for three channels; published runs leave the classifier dense.
    """

    name: ClassVar[str] = "vgg16"

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Return the network for images of `shape` (channels, height, width)."""
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        inputs = shape[0]
        for stage, widths in enumerate(STAGES, start=1):
            if stage > 1:
                layers[f"pool{stage - 1}"] = nn.MaxPool2d(2)
            for number, outputs in enumerate(widths, start=1):
                layers[f"conv{stage}_{number}"] = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
                layers[f"bn{stage}_{number}"] = nn.BatchNorm2d(outputs)
                layers[f"relu{stage}_{number}"] = nn.ReLU()
                inputs = outputs
        layers["pool"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["classifier"] = nn.Linear(inputs, classes)
        return kaiming_normal_(nn.Sequential(layers))
