"""ResNets for small images (He et al. 2016, section 4.2), as the paper of Concrete Ticket Search uses them."""

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor, nn

from tombola.core.parts import COUNT, Must, Part, option


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a strided 3x3 convolution with BatchNorm where shapes change."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1:
            # The published networks take 3x3 here: 291,376 prunable weights in ResNet-20, not the usual 270,896.
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, (N, outputs, H/stride, W/stride)."""
        out = self.relu1(self.bn1(self.conv1(x)))
        found: Tensor = self.relu2(self.bn2(self.conv2(out)) + self.shortcut(x))
        return found


@dataclass(frozen=True)
class ResNet(Part):
    """A ResNet of 6n + 2 layers. Convolutions and the linear layer are Kaiming-normal, BatchNorm scales 1."""

    depth: int = option(20, "layers, 6n + 2", must=Must(lambda depth: depth >= 8 and depth % 6 == 2, "of 6n + 2"))
    width: int = option(16, "channels of the first stage", must=COUNT)

    @property
    def name(self) -> str:  # type: ignore[override]
        """resnet20, say."""
        return f"resnet{self.depth}"

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Return the network for images of `shape` (channels, height, width)."""
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        inputs = self.width
        for stage in range(3):
            for number in range((self.depth - 2) // 6):
                outputs = self.width * 2**stage
                blocks[f"stage{stage + 1}_{number + 1}"] = Block(inputs, outputs, 2 if stage and not number else 1)
                inputs = outputs
        layers = OrderedDict(
            conv=nn.Conv2d(shape[0], self.width, 3, padding=1, bias=False),
            bn=nn.BatchNorm2d(self.width),
            relu=nn.ReLU(),
            **blocks,
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(inputs, classes),
        )
        return kaiming_normal_(nn.Sequential(layers))


def publish_batch_norm_(model: nn.Module) -> nn.Module:
    """Make BatchNorm as in the published runs, in place: scales drawn from U(0, 1), no running statistics.

    Without them a network normalises by the statistics of each batch in evaluation too.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.weight is not None:
                nn.init.uniform_(module.weight)
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
    return model


def kaiming_normal_(model: nn.Module) -> nn.Module:
    """Initialise convolutions and linear layers Kaiming-normal, in place; biases stay as PyTorch made them."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return model
