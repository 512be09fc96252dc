"""A hook that runs after a gradient has come in, and writes on the weights."""

from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)
        self.head.weight.register_post_accumulate_grad_hook(lambda weight: weight.data.mul_(0.999))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.flatten(1))


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
