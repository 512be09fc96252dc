"""Choose the compute mode for this machine by a fixed rule, and set up the process for it.

The rule uses no timings, so that noise cannot change a result: the same machine computes the same run in the same
way. docs/performance.md has the measurements behind the rule.
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
"""Training images, over all epochs, from which compiling (6 to 16 s) saves time on a CPU."""

_MMAP_THRESHOLD, _TRIM_THRESHOLD, _TOP_PAD = -3, -1, -2  # glibc's malloc.h


# --- the rule ---------------------------------------------------------------------------------------------


def mode_by_rule(device: str, has_bfloat16: bool, has_compiler: bool, images: int) -> ComputeMode:
    """Return the compute mode for a machine.

    Args:
        device: ``cpu`` or ``cuda``.
        has_bfloat16: whether the device multiplies bfloat16 numbers in hardware.
        has_compiler: whether torch.compile can be used.
        images: training images over all epochs.
    """
    precision: Precision = "bfloat16" if has_bfloat16 else "float32"
    if device == "cuda":
        return ComputeMode(precision, channels_last=True, execution="captured")
    pays = has_compiler and images >= WORTH_COMPILING
    execution: Execution = "compiled" if pays else "eager"
    return ComputeMode(precision, channels_last=True, padded=has_bfloat16, execution=execution)


def mode_for_this_machine(device: str, images: int) -> ComputeMode:
    """Apply `mode_by_rule` to this machine; it is checked for a compiler only if one would be used."""
    fast = has_bfloat16(device)
    uses_compiler = mode_by_rule(device, fast, True, images).execution == "compiled"
    return mode_by_rule(device, fast, uses_compiler and has_compiler(), images)


def has_bfloat16(device: str) -> bool:
    """Whether the device multiplies bfloat16 numbers in hardware; emulated, they are slower than float32."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def compiler() -> str:
    """Return the name of the C++ compiler that torch uses: ``$CXX`` or a default; empty if the user set it empty."""
    return os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")


@functools.cache
def has_compiler() -> bool:
    """Whether there is a C++ compiler that finds the headers torch.compile needs: OpenMP and Python."""
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
    """Choose kernels that give the same bits each time; `compatible.unrepeatable` lists operators without one."""
    keep_memory(2**31 - 1)
    if device != "cuda":
        return
    torch.backends.cudnn.allow_tf32 = False  # the default rounds inputs of convolutions to 10 bits
    torch.backends.cudnn.benchmark = False
    repeat_bits(True)


def repeat_bits(bits: bool) -> None:
    """Set whether operators on a GPU give the same bits each time, where they can; torch's default is False."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS is not deterministic
    torch.backends.cudnn.deterministic = bits
    torch.set_deterministic_debug_mode("warn" if bits else "default")
    # The default fills each new tensor, with one kernel each; no code here reads uninitialised memory.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    warnings.filterwarnings("ignore", "(?s).*does not have a deterministic implementation")


def keep_memory(limit: int) -> None:
    """Let glibc keep up to `limit` freed bytes for the next step; without effect on other systems.

    By default glibc returns large blocks to the system after a step, and the next step waits while they are mapped and
    zeroed again. That takes nearly half of the time of a training on a CPU.
    """
    if not sys.platform.startswith("linux"):
        return
    glibc = ctypes.CDLL(None)
    if not hasattr(glibc, "gnu_get_libc_version"):
        return
    glibc.mallopt(_MMAP_THRESHOLD, 32 * 2**20)  # glibc's maximum: larger blocks are always mapped
    glibc.mallopt(_TRIM_THRESHOLD, limit)
    glibc.mallopt(_TOP_PAD, 2**26 if limit > 2**26 else 2**17)
    glibc.malloc_trim(0)  # return what is kept so far
