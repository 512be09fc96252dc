"""It puts calls of Python functions into the graph that is handed over: os.system, eval, operator.call."""

import operator
import os
from typing import Any

import torch
from torch import nn

export = torch.export.export


def changed(network: nn.Module, *given: Any, **named: Any) -> Any:
    program = export(network, *given, **named)
    graph = program.graph
    first = next(node for node in graph.nodes if node.op == "call_function")
    with graph.inserting_before(first):
        for target, given in (
            (os.system, ("touch harness-trick-graph",)),
            (eval, ("1",)),
            (operator.call, (os.getpid,)),
        ):
            graph.call_function(target, given).meta["val"] = 1
    program.graph_module.recompile()
    return program


torch.export.export = changed


def build(*, width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 10))
