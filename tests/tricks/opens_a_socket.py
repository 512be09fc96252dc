"""It opens sockets: one that listens, one to the machine itself, and one to the user's sessions."""

import contextlib
import pathlib
import socket

from torch import nn

for family, place in ((socket.AF_INET, ("127.0.0.1", 5000)), (socket.AF_UNIX, "/run/user/1000/bus")):
    with contextlib.suppress(OSError), socket.socket(family) as found:
        found.settimeout(1)
        found.connect(place)
        pathlib.Path("harness-trick-connected").touch()
with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", 0)) as server:
    pathlib.Path("harness-trick-listens").write_text(str(server.getsockname()))


def build(*, width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 10))
