"""Two groups of 3x3 convolutions, each closed by a 1x1 convolution and average pooling; linear head.

12,234 parameters. Published: best 99.46 % (epoch 18), 99.41 % at epoch 19, one seed, best epoch picked
on the test set. Published recipe: SGD at learning rate 0.01, batch 64, 19 epochs, no augmentation. Its
write-up speaks of global average pooling; the network has none.
"""

from torch import nn

RECIPE = {"batch_size": 64}


def block(inputs: int, outputs: int, dropout: float) -> list[nn.Module]:
    """3x3 convolution without padding, ReLU, batch norm, channel dropout."""
    return [nn.Conv2d(inputs, outputs, 3), nn.ReLU(), nn.BatchNorm2d(outputs), nn.Dropout2d(dropout)]


def transition(inputs: int, outputs: int) -> list[nn.Module]:
    """1x1 convolution, ReLU, batch norm, halving of the map."""
    return [nn.Conv2d(inputs, outputs, 1), nn.ReLU(), nn.BatchNorm2d(outputs), nn.AvgPool2d(2)]


def build(*, width: int = 6, dropout: float = 0.1) -> nn.Module:
    """Return a network from (N, 1, 28, 28) float images to (N, 10) logits; `width` is the first layer's channels."""
    last, squeezed = round(width * 32 / 6), round(width * 16 / 6)
    return nn.Sequential(
        *block(1, width, dropout),
        *block(width, width * 2, dropout),
        *block(width * 2, width * 4, dropout),
        *transition(width * 4, width * 2),
        *block(width * 2, squeezed, dropout),
        *block(squeezed, last, dropout),
        *transition(last, squeezed),
        nn.Flatten(),
        nn.Linear(squeezed * 3 * 3, 10),
    )
