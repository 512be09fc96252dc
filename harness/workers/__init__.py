"""Workers that train: processes of this machine, or those of a Dask cluster."""

from typing import TYPE_CHECKING

from harness.workers.processes import Processes
from harness.workers.protocol import News, Workers

if TYPE_CHECKING:
    from harness.workers.cluster import Cluster

__all__ = ["Cluster", "News", "Processes", "Workers"]


def __getattr__(name: str) -> object:
    if name == "Cluster":  # loaded on demand: Dask need not be installed
        from harness.workers.cluster import Cluster

        return Cluster
    raise AttributeError(name)
