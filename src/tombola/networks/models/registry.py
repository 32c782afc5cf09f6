"""Models by name: ours, torchvision's, and the user's own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from tombola.core.parts import Part
from tombola.core.written import Family
from tombola.errors import UsageError
from tombola.networks.models.base import Model, OwnModel
from tombola.networks.models.lenet import LeNet300100
from tombola.networks.models.libraries import HuggingFaceModel, TimmModel
from tombola.networks.models.resnet import ResNet
from tombola.networks.models.vgg import VGG16


@dataclass(frozen=True)
class TorchvisionModel(Part):
    """A network of torchvision, for classes or for segmentation, with freshly initialised weights."""

    name: str = ""  # type: ignore[misc]

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Return the network; torchvision's take images of three channels only."""
        from torchvision import models

        found: nn.Module = models.get_model(self.name, num_classes=classes, **self._without_download())
        return found

    def _without_download(self) -> dict[str, Any]:
        """Return the arguments that keep torchvision from fetching a backbone's weights."""
        from torchvision import models

        return {"weights_backbone": None} if self.name in models.list_models(models.segmentation) else {}


# Models of other libraries, by what stands before the colon.
LIBRARIES: dict[str, Callable[[str], Model]] = {"timm": TimmModel, "hf": HuggingFaceModel}


class _Models(Family[Model]):
    """Models by name, torchvision's classifiers too, which are looked up only where no other is meant."""

    def named(self, name: str) -> Model:
        """Return the model of a name; raises UsageError listing what there is."""
        library, _, rest = name.partition(":")
        if library in LIBRARIES and rest:
            return LIBRARIES[library](name)
        if name not in self.known and ":" not in name:
            from torchvision import models

            # Those for images and labels, or labels of pixels: detection has a module of its own.
            if name in (*models.list_models(models), *models.list_models(models.segmentation)):
                return TorchvisionModel(name)
            allowed = f"{', '.join(self.known)}, one of torchvision, timm:NAME, hf:CONFIG_OR_FOLDER, or MODULE:FUNCTION"
            raise UsageError(f"{name!r} is unknown; allowed are {allowed}", option=self.option)
        return super().named(name)


MODELS: Family[Model] = _Models(
    "model",
    {
        "lenet-300-100": LeNet300100(),
        "resnet20": ResNet(20),
        "resnet20-w8": ResNet(20, 8),
        "resnet32": ResNet(32),
        "resnet56": ResNet(56),
        "vgg16": VGG16(),
    },
    Model,
    OwnModel.of,
)


def build(model: Model | str, shape: tuple[int, ...], classes: int, padding: int | None = None) -> nn.Module:
    """Return a freshly initialised network for inputs of `shape`.

    model: one, or as it is written. padding: of texts, the token that pads, which Hugging Face's models have to know.
    """
    found = MODELS.read(model)
    if isinstance(found, HuggingFaceModel):
        return found.build(shape, classes, padding)
    built = found.build(shape, classes)
    if not isinstance(built, nn.Module):
        raise UsageError(f"the function must return a torch.nn.Module, got {type(built).__name__}", option="model")
    return built
