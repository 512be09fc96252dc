"""The device that trains, and its display name."""

from __future__ import annotations

import platform
from collections.abc import Sequence

import torch

from harness.errors import UsageError
from harness.spec import DEVICES


def choose_device(name: str) -> str:
    """Resolve ``auto`` to ``cuda`` if there is a GPU that this torch supports, else to ``cpu``.

    Raises:
        UsageError: ``cuda`` was requested and cannot be used, or the name is no device.
    """
    if name not in DEVICES:
        raise UsageError(f"'{name}' is not a device to train on.", allowed=f"Allowed: {', '.join(DEVICES)}.")
    if name == "cpu" or (name == "auto" and (not torch.cuda.is_available() or gpu_without_code())):
        return "cpu"
    if not torch.cuda.is_available():
        raise UsageError("There is no CUDA device here.", hint="Use --device cpu or auto.")
    if missing := gpu_without_code():
        raise UsageError(
            f"{missing}.",
            allowed=f"It has code for {', '.join(torch.cuda.get_arch_list())}.",
            hint="Use --device cpu, or install a torch that was built for this GPU.",
        )
    return "cuda"


def gpu_without_code() -> str:
    """Return a message if the GPU of this machine is not supported by this torch, else an empty text."""
    if not torch.cuda.is_available() or _has_code_for(torch.cuda.get_device_capability(), torch.cuda.get_arch_list()):
        return ""
    major, minor = torch.cuda.get_device_capability()
    return f"torch {torch.__version__} has no code for {torch.cuda.get_device_name()} (sm_{major}{minor})"


def _has_code_for(capability: tuple[int, int], built_for: Sequence[str]) -> bool:
    """Return whether a GPU runs code that torch was built for: of its generation up to its version, or older PTX."""
    for name in built_for:
        kind, _, number = name.partition("_")
        if kind in ("sm", "compute"):  # AMD's names start differently
            number = number.rstrip("af")
            built = (int(number[:-1]), int(number[-1]))
            if built <= capability and (kind == "compute" or built[0] == capability[0]):
                return True
    return False


def device_name(device: torch.device) -> str:
    """Return the display name of a device, such as ``NVIDIA H200`` or ``AMD EPYC, 2 threads``."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    threads = torch.get_num_threads()
    return f"{model}, {threads} thread{'' if threads == 1 else 's'}"
