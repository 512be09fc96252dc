"""Attention over rows with a causal mask that forward computes from the number of rows."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(28, 3 * width)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        rows = images.squeeze(1)
        query, key, value = self.project(rows).chunk(3, dim=-1)
        length = rows.shape[1]
        hidden = torch.triu(torch.full((length, length), float("-inf"), device=rows.device), diagonal=1)
        return self.head(F.scaled_dot_product_attention(query, key, value, attn_mask=hidden)[:, -1])


def build(*, width: int = 8) -> nn.Module:
    return Network(width)
