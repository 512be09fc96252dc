"""A build that leaves the process."""

import sys

from torch import nn


def build() -> nn.Module:
    sys.exit(0)
