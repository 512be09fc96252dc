"""A wide 5x5 stem, three 3x3 convolutions, heavy dropout; 1x1 convolution to ten maps, averaged.

19,898 parameters. Published: best 99.43 % (epoch 15), 99.39 % at epoch 19 of 20, one seed, best epoch
picked on the test set. Published recipe: SGD at learning rate 0.01, batch 64, no augmentation; it ran
20 epochs, here it runs 19.
"""

from torch import nn

RECIPE = {"batch_size": 64}


def block(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    """Convolution padded by 1, ReLU, batch norm."""
    return [nn.Conv2d(inputs, outputs, kernel, padding=1), nn.ReLU(), nn.BatchNorm2d(outputs)]


def build(*, width: int = 32, dropout: float = 0.25) -> nn.Module:
    """Return a network from (N, 1, 28, 28) float images to (N, 10) logits; `width` is the first layer's channels."""
    narrow = round(width / 2)
    return nn.Sequential(
        *block(1, width, 5),
        *block(width, narrow, 3),
        nn.MaxPool2d(2),
        nn.Dropout(dropout),
        *block(narrow, width, 3),
        *block(width, width, 3),
        nn.MaxPool2d(2),
        nn.Dropout(dropout),
        nn.Conv2d(width, 10, 1),
        nn.ReLU(),
        nn.AvgPool2d(6),
        nn.Flatten(),
    )
