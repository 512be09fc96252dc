"""One 3x3 convolution, used at every depth, each time with a batch norm of its own; scored over five shifts.

996 parameters at width 8. A convolution of its own at each of eight depths would leave room for three or four
channels; shared, it has eight, and the batch norms tell the depths apart. Two filters as large as the last map,
the same for all channels, say where a feature lies. At evaluation the logits are the mean over the image and its
four shifts by a pixel, which takes no parameter.
"""

from torch import Tensor, nn
from torch.nn import functional as F

RECIPE = {
    "batch_size": 128,
    "lr": 0.2,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 2e-4,
    "schedule": "linear",
    "warmup_epochs": 2.85,
    "ema": 0.999,
    "rotation": 5.0,
    "translate": 0.05,
    "scale": 0.04,
    "shear": 0.04,
}

SHIFTS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))


class Network(nn.Module):
    def __init__(self, width: int, at_14: int, at_7: int, templates: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        self.shared = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norms_at_14 = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(at_14))
        self.norms_at_7 = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(at_7 - 1))
        self.last_norm = nn.BatchNorm2d(width)
        self.places = nn.Linear(5 * 5, templates, bias=False)
        self.head = nn.Sequential(
            nn.Flatten(), nn.BatchNorm1d(width * templates, affine=False), nn.Linear(width * templates, 10)
        )

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            return self.classify(images)
        logits = [self.classify(images.roll(shift, (2, 3))) for shift in SHIFTS]
        return sum(logits[1:], logits[0]) / len(SHIFTS)

    def classify(self, images: Tensor) -> Tensor:
        maps = F.max_pool2d(F.silu(self.stem_norm(self.stem(images))), 2)
        for norm in self.norms_at_14:
            maps = maps + F.silu(norm(self.shared(maps)))
        maps = F.max_pool2d(maps, 2)
        for norm in self.norms_at_7:
            maps = maps + F.silu(norm(self.shared(maps)))
        inner = F.conv2d(maps, self.shared.weight)  # the last time without padding: a map of 5x5 takes fewer places
        maps = maps[:, :, 1:-1, 1:-1] + F.silu(self.last_norm(inner))
        return self.head(self.places(maps.flatten(2)))


def build(*, width: int = 8, at_14: int = 3, at_7: int = 4, templates: int = 2) -> nn.Module:
    """Return a network from (N, 1, 28, 28) float images to (N, 10) logits.

    `width` is the channels of every map; `at_14` and `at_7` say how often maps of these sides are convolved;
    `templates` is the number of filters over the places of the last map.
    """
    return Network(width, at_14, at_7, templates)
