"""Workers that train: processes of this machine, or workers of a Dask cluster."""

from typing import TYPE_CHECKING

from harness.workers.processes import Processes
from harness.workers.protocol import News, Workers

if TYPE_CHECKING:
    from harness.workers.cluster import Cluster

__all__ = ["Cluster", "News", "Processes", "Workers"]


def __getattr__(name: str) -> object:
    if name == "Cluster":  # imported on demand, as Dask is optional
        from harness.workers.cluster import Cluster

        return Cluster
    raise AttributeError(name)
