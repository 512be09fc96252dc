"""Options that several commands share, and the parsing of their values."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Mapping, Sequence

from harness import plugins
from harness.data import NAMES
from harness.errors import UsageError
from harness.spec import DEVICES, Architecture, Knob, Recipe
from harness.watchdog import HANG_TIMEOUT

LONGEST = 10_000_000
"""The longest timeout, in seconds."""


def add_files(parser: argparse.ArgumentParser, at_least_one: bool = True) -> None:
    """Add the positional architecture files."""
    count = "+" if at_least_one else "*"
    parser.add_argument("files", nargs=count, metavar="FILE", help="architecture, such as architectures/s6_gap.py")


def add_set(parser: argparse.ArgumentParser) -> None:
    """Add ``--set name=value``."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="settings",
        help="set a knob of the architecture or a field of the recipe (may be repeated)",
    )


def add_dataset(parser: argparse.ArgumentParser) -> None:
    """Add ``--dataset``."""
    choices = ", ".join(("auto", *NAMES))
    parser.add_argument(
        "--dataset", default="auto", metavar="NAME", help=f"one of {choices} (default: auto, MNIST if it is available)"
    )


def add_device(
    parser: argparse.ArgumentParser, default: str | None = "auto", help: str = "default: an NVIDIA GPU if there is one"
) -> None:
    """Add ``--device``."""
    parser.add_argument("--device", type=_device, default=default, choices=DEVICES, help=help)


def _device(text: str) -> str:
    if text == "mps":
        raise argparse.ArgumentTypeError("Apple GPUs are not supported: use cpu")
    return text


def add_author(parser: argparse.ArgumentParser) -> None:
    """Add ``--author``."""
    parser.add_argument(
        "--author",
        metavar="NAME",
        help="who trains: recorded with new runs, exported with them and shown on the board (default: $HARNESS_AUTHOR)",
    )


def add_hang_timeout(parser: argparse.ArgumentParser) -> None:
    """Add ``--hang-timeout``, in seconds."""
    parser.add_argument(
        "--hang-timeout",
        type=_seconds,
        default=HANG_TIMEOUT,
        metavar="T",
        help="end a plug-in if its audit or an epoch of its training takes longer than T seconds "
        f"(default: {HANG_TIMEOUT:g})",
    )


def add_jobs(parser: argparse.ArgumentParser) -> None:
    """Add ``--jobs``, the number of seeds at once."""
    parser.add_argument("--jobs", type=int, default=1, metavar="K", help="seeds to train at once on a GPU (default: 1)")


def refuse_jobs(count: int, device: str) -> None:
    """Refuse a number of seeds that cannot be trained at once on `device`.

    Raises:
        UsageError: `count` is below 1, or above 1 on a CPU.
    """
    if count < 1:
        raise UsageError(f"--jobs {count} is out of range.", allowed="Allowed: 1 or more.")
    if count > 1 and device == "cpu":
        raise UsageError(
            f"--jobs {count} is not possible here.",
            allowed="Seeds train at once on a GPU; on a CPU one run uses all threads, and two would gain little.",
            hint="Leave --jobs out.",
        )


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Add ``--cluster`` and ``--gpu-share``."""
    parser.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="train on a Dask cluster: tcp://HOST:PORT of its scheduler, or local:N for N workers here",
    )
    parser.add_argument(
        "--gpu-share", type=float, metavar="G", help="share of a GPU that one training takes (default: its worker's)"
    )


def uses_cluster(args: argparse.Namespace) -> bool:
    """Return whether ``--cluster`` was given.

    Raises:
        UsageError: ``--gpu-share`` was given without ``--cluster``.
    """
    if args.cluster is None and args.gpu_share is not None:
        raise UsageError("--gpu-share needs --cluster.", hint="On one GPU, run --jobs K trains K seeds at once.")
    return args.cluster is not None


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= LONGEST:
        raise argparse.ArgumentTypeError(f"{text} is out of range: allowed is above 0, to {LONGEST:,} seconds")
    return seconds


def settings(texts: Sequence[str]) -> dict[str, str]:
    """Parse ``name=value`` texts.

    Raises:
        UsageError: a text has no ``=``, or a name is given twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"--set {text} is not NAME=VALUE.", allowed="Example: --set width=12 --set lr=0.1.")
        if name in found:
            raise UsageError(f"--set gives {name} twice.", hint="Give it once.")
        found[name] = value
    return found


def parse_settings(architecture: Architecture, given: Mapping[str, str]) -> tuple[dict[str, Knob], Recipe]:
    """Parse settings and apply them: a knob whose default is text takes the text; others take numbers, true and false.

    Raises:
        UsageError: a name is unknown, or a value is not allowed for it.
    """
    values = {
        name: text if isinstance(architecture.knobs.get(name), str) else _value(text) for name, text in given.items()
    }
    return plugins.apply_settings(architecture, values)


def _value(text: str) -> Knob:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for read in (int, float):
        with contextlib.suppress(ValueError):
            return read(text)
    return text
