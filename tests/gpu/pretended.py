"""A pretended GPU: a CUDA runtime that counts kernels instead of running them, built for the torch that is installed.

  python tests/gpu/pretended.py -m harness run architectures/s6_gap.py --dataset digits --device cuda --epochs 2
  PRETENDED_GPU=t4 python tests/gpu/pretended.py -c 'import torch; print(torch.cuda.get_device_name())'

It shows that everything is launched, captured, replayed, kept and restored. It shows no number: no kernel computes
anything. So what checks computed values is switched off, in `unchecked/sitecustomize.py`; PRETENDED_GPU_CHECKED=1
leaves it on. README.md says what else there is.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "runtime"
UNCHECKED = HERE / "unchecked"

RUNTIME, DRIVER = "libpretended.so", "libcuda.so.1"

_IMPORTED = re.compile(r"(?:__cuda|cuda|cublas|cudnn)[A-Z]\w*$")
"""Names of CUDA's libraries that torch's import."""

_COMPUTES_NOTHING = re.compile(r"^cuda|^__cuda|Create|Destroy|Set|Get|Query|Version|Restore|Find|Check|Init")

_HOST_DEFINES = """\
#define __device_builtin__
#define __builtin_align__(n) __attribute__((aligned(n)))
#define __cudart_builtin__
#define __host__
#define __device__
#define CUDARTAPI
#define __align__(n) __attribute__((aligned(n)))
#define __device_builtin_surface_type__
#define __device_builtin_texture_type__
"""
"""The compiler's part of CUDA's headers, which its Python packages leave out: for C, words that mean nothing."""


# --- building ---------------------------------------------------------------------------------------------


def why_not() -> str:
    """Say why no GPU can be pretended here; empty where one can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "a GPU is pretended on Linux and x86-64 alone"
    for tool in ("gcc", "nm"):
        if not shutil.which(tool):
            return f"there is no {tool} to build a pretended GPU with"
    if not _torch_library("libtorch_cuda.so").exists():
        return "this torch is built without CUDA"
    if not _headers():
        return "CUDA's headers, of which torch's CUDA 13 packages bring their own, are not installed"
    return ""


def build(folder: Path) -> Path:
    """Build the runtime for the installed torch in `folder`, and return it.

    Raises:
        RuntimeError: it cannot be built here.
    """
    if reason := why_not():
        raise RuntimeError(reason)
    (folder / "crt").mkdir(parents=True, exist_ok=True)
    (folder / "crt" / "host_defines.h").write_text(_HOST_DEFINES)
    own = [SOURCES / f"{name}.c" for name in ("counts", "capture", "memory", "device", "kernels", "libraries")]
    flags = [f"-DFIRST_CAPABILITY={first_capability()}", f"-I{folder}", *(f"-I{place}" for place in _headers())]
    first = folder / "without-stubs.so"
    _compile([*flags, *map(str, own)], first)
    missing = _names(["--undefined-only"], _torch_libraries()) - _names(["--defined-only"], [first])
    (folder / "stubs.c").write_text(_stubs(sorted(filter(_IMPORTED.match, missing))))
    _compile([*flags, *map(str, own), str(folder / "stubs.c")], folder / RUNTIME)
    _compile([str(SOURCES / "driver.c")], folder / DRIVER)
    return folder


def built() -> Path:
    """Return the folder of a runtime for the installed torch, built once and kept among the temporary files."""
    digest = hashlib.sha256(_torch_version().encode())
    for source in (*sorted(SOURCES.iterdir()), Path(__file__)):
        digest.update(source.read_bytes())
    kept = Path(tempfile.gettempdir()) / f"pretended-gpu-{os.getuid()}-{digest.hexdigest()[:16]}"
    if not kept.exists():
        fresh = Path(tempfile.mkdtemp(prefix="pretended-gpu-"))
        build(fresh)
        try:
            fresh.rename(kept)
        except OSError:  # another process was faster
            shutil.rmtree(fresh)
    return kept


def environment(folder: Path, *, checked: bool = False) -> dict[str, str]:
    """Return the environment of a process that shall find a GPU, by the runtime in `folder`.

    Args:
        checked: leave the checks of computed values on.
    """
    found = {
        **os.environ,
        "LD_PRELOAD": str(folder / RUNTIME),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("LD_LIBRARY_PATH", "")])),
        "PYTORCH_NVML_BASED_CUDA_CHECK": "0",  # NVML would ask the machine's own driver
    }
    if not checked:
        found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(UNCHECKED), os.environ.get("PYTHONPATH", "")]))
    return found


def _compile(arguments: Sequence[str], target: Path) -> None:
    command = ["gcc", "-std=gnu11", "-O1", "-shared", "-fPIC", *arguments, "-o", str(target), "-lpthread", "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"gcc cannot build {target.name}:\n{done.stderr}")


def _names(which: Sequence[str], libraries: Sequence[Path]) -> set[str]:
    """Return the names that libraries import or give out."""
    listed = subprocess.run(["nm", "-D", *which, *map(str, libraries)], capture_output=True, text=True, check=True)
    return {line.split()[-1].partition("@")[0] for line in listed.stdout.splitlines() if " " in line}


def _stubs(names: Sequence[str]) -> str:
    """Return C code for what the sources leave out: calls that succeed, and are counted under their names."""
    lines = ["void pretended_note(const char *);", "int pretended_compute(const char *);"]
    for name in names:
        body = f'pretended_note("{name}"); return 0;'
        if not _COMPUTES_NOTHING.search(name):
            body = f'return pretended_compute("{name}");'
        lines.append(f"int {name}(void) {{ {body} }}")
    return "\n".join(lines) + "\n"


def _torch_folder() -> Path:
    found = importlib.util.find_spec("torch")  # not imported: that takes seconds
    return Path(found.origin).parent if found and found.origin else Path("torch")


def _torch_library(name: str) -> Path:
    return _torch_folder() / "lib" / name


def _torch_libraries() -> list[Path]:
    names = ("libtorch_cuda*.so", "libc10_cuda.so", "libtorch_python.so")
    return [library for name in names for library in (_torch_folder() / "lib").glob(name)]


def _torch_version() -> str:
    return (_torch_folder() / "version.py").read_text()


def _headers() -> list[Path]:
    """Return the folders of the headers of CUDA's runtime and of cuDNN; nothing where one is missing."""
    packages = importlib.util.find_spec("nvidia")
    places = [Path(place) for place in packages.submodule_search_locations or ()] if packages else []
    found = []
    for header in ("cuda_runtime_api.h", "cudnn.h"):
        folders = [file.parent for place in places for file in sorted(place.glob(f"*/include/{header}"))]
        if not folders:
            return []
        found.append(folders[-1])
    return found


def first_capability() -> int:
    """Return the lowest compute capability that torch has kernels for, such as 75."""
    code = "import torch; print(torch._C._cuda_getArchFlags())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return min(int(number) for number in re.findall(r"(?:sm|compute)_(\d+)", told))


# --- what was counted -------------------------------------------------------------------------------------

KINDS = ("kernel", "library", "copy", "memset", "call")
"""In the order of the runtime's `Kind`; all but a call are work for the device."""


@dataclass(frozen=True)
class Graph:
    """A captured graph: how often it was launched, and how often each (kind, name) is a node of it."""

    launches: int
    nodes: Counter[tuple[str, str]]


@dataclass(frozen=True)
class Counts:
    """What a process has done since `reset`: by (kind, name), outside of captures and within.

    Graphs are all of the process, in the order of their capture, with their launches since it began.
    """

    outside: Counter[tuple[str, str]]
    captured: Counter[tuple[str, str]]
    graphs: tuple[Graph, ...]


def reset() -> None:
    """Reset the counts, in a process that runs under the runtime."""
    ctypes.CDLL(None).pretended_reset()


def counts() -> Counts:
    """Return what this process has done, under the runtime, since `reset`."""
    runtime = ctypes.CDLL(None)
    outside: Counter[tuple[str, str]] = Counter()
    captured: Counter[tuple[str, str]] = Counter()
    graphs: list[Graph] = []
    with tempfile.TemporaryDirectory() as folder:
        for write, name in ((runtime.pretended_write, "counts"), (runtime.pretended_write_graphs, "graphs")):
            if write(f"{folder}/{name}".encode()):
                raise OSError(f"the runtime cannot write {folder}/{name}")
        for line in Path(folder, "counts").read_text().splitlines():
            kind, out, within, name = line.split("\t", 3)
            outside[KINDS[int(kind)], name] += int(out)
            captured[KINDS[int(kind)], name] += int(within)
        for line in Path(folder, "graphs").read_text().splitlines():
            what, first, second = line.split("\t", 2)
            if what == "graph":
                graphs.append(Graph(int(first), Counter()))
            else:
                graphs[-1].nodes[KINDS[int(first)], second] += 1
    return Counts(+outside, +captured, tuple(graphs))


def work(counted: Counter[tuple[str, str]]) -> int:
    """Return how many of these are work for the device."""
    return sum(times for (kind, _), times in counted.items() if kind != "call")


def plain_names(names: Sequence[str]) -> list[str]:
    """Return the names of kernels as their authors wrote them, where c++filt is there to tell."""
    if not shutil.which("c++filt"):
        return list(names)
    told = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    return told.split("\n")[: len(names)]


# --- the log ----------------------------------------------------------------------------------------------


def read_log(file: Path) -> list[list[str]]:
    """Return the lines of $PRETENDED_GPU_LOG, of all processes, as what happened and its words.

    ``begun``; ``captured NODES MISSED``, MISSED being launched meanwhile on streams that were not captured;
    ``failed ERROR``; ``illegal CALL ERROR``; ``launched NODES``.
    """
    return [line.split("\t")[1:] for line in file.read_text().splitlines()] if file.exists() else []


def become(arguments: Sequence[str]) -> NoReturn:
    """Become Python under the runtime, with `arguments`."""
    if reason := why_not():
        sys.exit(f"No GPU can be pretended: {reason}.")
    checked = bool(os.environ.get("PRETENDED_GPU_CHECKED"))
    os.execve(sys.executable, [sys.executable, *arguments], environment(built(), checked=checked))


if __name__ == "__main__":
    become(sys.argv[1:])
