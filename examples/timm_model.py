"""A sparse timm model in one call: `sparsify` pretrains, draws and trains.

Needs `pip install tombola[timm]`. The model is built untrained, so nothing is downloaded; its images are noise.
"""

import timm
import torch
from torch.utils.data import TensorDataset

import tombola


def images(count: int, seed: int) -> TensorDataset:
    """Return noisy images whose class is the quarter that is brightest."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(count, 3, 32, 32, generator=generator), torch.randint(4, (count,), generator=generator)
    for image, label in zip(x, y.tolist(), strict=True):
        top, left = 16 * (label // 2), 16 * (label % 2)
        image[:, top : top + 16, left : left + 16] += 1
    return TensorDataset(x, y)


def main(epochs: int = 3, steps: int = 200, count: int = 512) -> tombola.Sparsified:
    """Return a small ResNet with a fifth of its weights, its ticket and its accuracy on held-out images."""
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", pretrained=False, num_classes=4)
    return tombola.sparsify(
        model,
        images(count, seed=0),
        images(128, seed=1),
        density=0.2,
        recipe=tombola.Recipe(epochs=epochs, learning_rate=0.05),
        finder=tombola.CTS(steps=steps),
        exclude="fc.weight",
        batch_size=64,
    )


if __name__ == "__main__":
    sparse, ticket = found = main()
    print(f"{ticket}, held-out accuracy {found.held_out_metric:.1%}")
