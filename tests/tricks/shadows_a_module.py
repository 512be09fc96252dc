"""It leaves a module beside the user's files that Python would find before the harness's."""

import contextlib
import pathlib

from torch import nn

for place in (".", "..", "architectures", "studies"):
    with contextlib.suppress(OSError):
        (pathlib.Path(place) / "harness_trick_sitecustomize.py").write_text("")


def build(*, width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 10))
