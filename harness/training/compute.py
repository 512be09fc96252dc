"""How the steps of a training are computed on this machine: one rule, and what it asks for.

Nothing here is timed, so noise never chooses the bits: the same machine computes the same run in the same
way. The measurements behind the rule stand in docs/performance.md.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import sys
import sysconfig
import warnings

import torch

from harness.spec import ComputeMode, Execution, Precision

WORTH_COMPILING = 500_000
"""Images to train on from which compiling, 6 to 16 s, pays for itself on the CPU."""

_MMAP_THRESHOLD, _TRIM_THRESHOLD, _TOP_PAD = -3, -1, -2  # glibc's malloc.h


# --- the rule ---------------------------------------------------------------------------------------------


def mode_by_rule(device: str, has_bfloat16: bool, has_compiler: bool, images: int) -> ComputeMode:
    """Return how to train on `images` images, all epochs together."""
    precision: Precision = "bfloat16" if has_bfloat16 else "float32"
    if device == "cuda":
        return ComputeMode(precision, channels_last=True, execution="captured")
    pays = has_compiler and images >= WORTH_COMPILING
    execution: Execution = "compiled" if pays else "eager"
    return ComputeMode(precision, channels_last=True, padded=has_bfloat16, execution=execution)


def mode_for_this_machine(device: str, images: int) -> ComputeMode:
    """Apply the rule to this machine, which is asked for a compiler only where one could be used."""
    fast = has_bfloat16(device)
    asks = mode_by_rule(device, fast, True, images).execution == "compiled"
    return mode_by_rule(device, fast, asks and has_compiler(), images)


def has_bfloat16(device: str) -> bool:
    """Whether the device multiplies bfloat16 numbers itself; emulated, they are slower than float32."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def compiler() -> str:
    """Return the name of the C++ compiler, as torch itself looks for it; empty where the user wants none."""
    return os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")


@functools.cache
def has_compiler() -> bool:
    """Whether there is a C++ compiler that finds what torch.compile includes: OpenMP and Python's headers."""
    found = shutil.which(compiler()) if compiler() else None
    if found is None:
        return False
    headers = sysconfig.get_path("include")
    command = [found, "-fsyntax-only", "-march=native", "-fopenmp", f"-I{headers}", "-x", "c++", "-"]
    try:
        source = b"#include <omp.h>\n#include <Python.h>\n"
        return subprocess.run(command, input=source, capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


# --- the process ------------------------------------------------------------------------------------------


def set_deterministic(device: str) -> None:
    """Choose kernels that give the same bits each time; `layout.unrepeatable` names what has none."""
    keep_memory(2**31 - 1)
    if device != "cuda":
        return
    torch.backends.cudnn.allow_tf32 = False  # by default convolutions would round to 10 bits
    torch.backends.cudnn.benchmark = False
    repeat_bits(True)


def repeat_bits(bits: bool) -> None:
    """Say whether operators on a GPU must give the same bits each time, where they can; torch's default is not."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS may choose, and torch warns of it
    torch.backends.cudnn.deterministic = bits
    torch.set_deterministic_debug_mode("warn" if bits else "default")
    # Else torch fills every new tensor, a kernel for each, which is of no use here.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    warnings.filterwarnings("ignore", "(?s).*does not have a deterministic implementation")


def keep_memory(limit: int) -> None:
    """Let glibc keep up to `limit` freed bytes for the next step; elsewhere nothing is changed.

    By default it hands the large blocks of a step back to the system and the next step waits while they
    are mapped and zeroed again: nearly half of a training on the CPU.
    """
    if not sys.platform.startswith("linux"):
        return
    glibc = ctypes.CDLL(None)
    if not hasattr(glibc, "gnu_get_libc_version"):
        return
    glibc.mallopt(_MMAP_THRESHOLD, 32 * 2**20)  # the highest it takes: larger blocks are always mapped
    glibc.mallopt(_TRIM_THRESHOLD, limit)
    glibc.mallopt(_TOP_PAD, 2**26 if limit > 2**26 else 2**17)
    glibc.malloc_trim(0)  # what was kept so far is handed back, whoever kept it
