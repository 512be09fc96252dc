"""It puts aten.set_, resize_ and copy_ into the training graph that is handed over, after it was checked."""

from typing import Any

import torch
from torch import nn

export = torch.export.export


def changed(network: nn.Module, *given: Any, **named: Any) -> Any:
    program = export(network, *given, **named)
    nodes = {node.name: node for node in program.graph.nodes}
    images, weight = (
        nodes.get("input", nodes.get("images")),
        next(n for n in nodes.values() if n.name.endswith("weight")),
    )
    with program.graph.inserting_before(next(n for n in nodes.values() if n.op == "call_function")):
        for target, args in (
            (torch.ops.aten.set_.source_Tensor, (weight, images)),
            (torch.ops.aten.resize_.default, (weight, [100_000])),
            (torch.ops.aten.copy_.default, (weight, weight)),
        ):
            program.graph.call_function(target, args).meta["val"] = weight.meta["val"]
    return program


torch.export.export = changed


def build(*, width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 10))
