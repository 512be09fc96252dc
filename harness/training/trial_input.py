"""Synthetic images and values for trial steps; they do not depend on the seed or the data of a run."""

from __future__ import annotations

import operator

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F

from harness.audit import every_tensor


def blob_images(count: int, device: torch.device) -> Tensor:
    """Return synthetic images (count, 1, 28, 28), blobs in the range of normalised digits; the same each time."""
    generator = torch.Generator().manual_seed(count)
    blobs = torch.rand(count, 1, 7, 7, generator=generator).pow(3)
    return F.interpolate(blobs, scale_factor=4, mode="bilinear").mul(3.2).sub(0.4).to(device)


def tensors_by_name(graph: nn.Module) -> dict[str, Tensor]:
    """Return a network's parameters and buffers by name; for an exported graph also its constant tensors."""
    found = dict(every_tensor(graph))
    if isinstance(graph, GraphModule):
        read = {
            str(node.target): operator.attrgetter(str(node.target))(graph)
            for node in graph.graph.find_nodes(op="get_attr")
        }
        found.update({name: value for name, value in read.items() if isinstance(value, Tensor)})
    return found


def replace_zero_weights(network: nn.Module) -> None:
    """Replace parameters that are all zero by fixed random values: no gradient passes through zeros."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=generator).mul(0.1))
