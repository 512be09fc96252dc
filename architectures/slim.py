"""Seven 3x3 convolutions of 8 to 32 channels, little dropout; 1x1 convolution to ten maps, partly averaged.

15,738 parameters. Published: best 99.42 % (epoch 12), 99.18 % at epoch 19, one seed, best epoch picked
on the test set. Published recipe: SGD at learning rate 0.01, batch 128, 19 epochs, no augmentation.
The published code also made a new, unused linear layer on every call of `forward`; it is left out here.
"""

from torch import nn


def block(inputs: int, outputs: int) -> list[nn.Module]:
    """3x3 convolution without padding, ReLU, batch norm."""
    return [nn.Conv2d(inputs, outputs, 3), nn.ReLU(), nn.BatchNorm2d(outputs)]


def build(*, width: int = 8, dropout: float = 0.05) -> nn.Module:
    """Return a network from (N, 1, 28, 28) float images to (N, 10) logits; `width` is the first layer's channels."""
    middle = width * 2
    return nn.Sequential(
        *block(1, width),
        *block(width, middle),
        *block(middle, middle),
        nn.MaxPool2d(2),
        nn.Dropout(dropout),
        *block(middle, middle),
        *block(middle, middle),
        *block(middle, middle),
        nn.Dropout(dropout),
        *block(middle, width * 4),
        nn.Conv2d(width * 4, 10, 1),
        nn.AvgPool2d(2),  # on the 3x3 map, so only its top-left 2x2 counts, as published
        nn.Flatten(),
    )
