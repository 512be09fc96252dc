"""Networks exported as the audit exports them, without its checks: for tests that only read or run the graphs."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

from harness import plugins
from harness.audit import Audit, Ledger
from harness.audit.export import export
from harness.plugins import Executed
from harness.spec import Knob

ARCHITECTURES = sorted((Path(__file__).parent.parent / "architectures").glob("*.py"))

NARROW: Mapping[str, Mapping[str, Knob]] = {
    "conv_transition": {"width": 3},
    "depthwise_head": {"channels": "2,3,3,4,4,4"},
    "gap_dropout": {"width": 3},
    "p4m_convolution": {"channels": "1,1,1,1,1,1", "filters": 1},
    "s6_gap": {"width": 4},
    "shared_convolution": {"width": 3, "at_14": 2, "at_7": 2, "templates": 1},
    "slim": {"width": 3},
    "wide_stem": {"width": 4},
}
"""Knobs with which a file in architectures/ builds a network of the same operators and fewer numbers."""


def exports(network: nn.Module, path: str = "network.py") -> Audit:
    """Return a network's two graphs, unchecked, with an empty ledger: this takes a fifth of the time of an audit."""
    return Audit(Ledger(()), export(network, True, path), export(network, False, path))


def train_graph(network: nn.Module) -> GraphModule:
    """Return the graph alone that would be trained."""
    return export(network, True, "network.py").module()


def evaluation_graph(network: nn.Module) -> GraphModule:
    """Return the graph alone that would be scored."""
    return export(network, False, "network.py").module()


sizes = pytest.mark.parametrize("size", ["narrow", pytest.param("whole", marks=pytest.mark.thorough)])


@functools.cache
def exported_file(file: Path, size: str) -> tuple[Executed, nn.Module, Audit]:
    """Export the network of a file, narrow or whole, once in each process; `Audit.graphs` copies its graphs."""
    architecture = plugins.execute(file.read_text(), str(file))
    torch.manual_seed(0)
    fewer = NARROW.get(file.stem, {}) if size == "narrow" else {}
    network = plugins.build_network(architecture, {**architecture.knobs, **fewer})
    return architecture, network, exports(network, str(file))
