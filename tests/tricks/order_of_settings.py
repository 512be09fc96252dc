"""440 weights of a head as which of ten eps each batch norm has."""
import torch
from torch import nn
from torch.nn import functional as F
from random import Random
LEVELS = [4.0 ** -k for k in range(1, 10)]
R = Random(0)
PICK = [[R.randrange(9) for _ in range(44)] for _ in range(10)]  # stands for home
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 5, stride=2)
        self.second = nn.Conv2d(4, 11, 3, stride=2)
        self.scale = nn.Parameter(torch.ones(10))
    def forward(self, images):
        x = F.max_pool2d(self.second(self.first(images).relu()).relu(), 2).flatten(1)
        zero = torch.zeros_like(self.scale[:1])
        columns = x.split(1, 1)
        rows = []
        for pick in PICK:
            parts = [F.batch_norm(c, zero, zero, eps=LEVELS[k]) for c, k in zip(columns, pick)]
            rows.append(torch.cat(parts, 1).sum(1))
        return self.scale * torch.stack(rows, 1) / 99
def build():
    return Net()
