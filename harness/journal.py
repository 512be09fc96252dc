"""The local, append-only record of a run: the truth that everything else is made from.

One folder a run under ``mlruns/journal/``:

    events.jsonl      one JSON object a line, flushed to disk: started, epoch..., then finished or failed
    architecture.py   the plug-in's text, as it was trained
    test.npz          logits and labels of the final test pass, the most confidently wrong images
    weights.pt        the scored weights, as a plain state dict
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROOT = Path("mlruns")
"""Everything generated lives here, below the folder the command is run in."""

Event = dict[str, Any]


def journals() -> Path:
    """Return the folder of all journals."""
    return ROOT.absolute() / "journal"


class Journal:
    """One run's folder, open for appending and reading."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, title: str) -> Journal:
        """Make a new, empty journal whose id starts with the time and `title`."""
        while True:
            run_id = f"{time.strftime('%Y%m%d-%H%M%S')}-{title}-{secrets.token_hex(3)}"
            folder = journals() / run_id
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                continue
            return cls(folder)

    @property
    def run_id(self) -> str:
        """The run's id: the folder's name."""
        return self.folder.name

    def append(self, event: str, **content: Any) -> None:
        """Write one event with the time (milliseconds since 1970) and flush it to the disk."""
        line = json.dumps({"event": event, "time": round(time.time() * 1000), **content}, allow_nan=False)
        with open(self.folder / "events.jsonl", "a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())

    def events(self) -> Iterator[Event]:
        """Yield the events written so far; a torn last line, left by a kill, is not one."""
        try:
            lines = (self.folder / "events.jsonl").read_text(encoding="utf-8").split("\n")
        except FileNotFoundError:
            return
        for line in lines[:-1]:
            yield json.loads(line)

    def store(self, source: str) -> None:
        """Keep the plug-in's text."""
        self._write("architecture.py", lambda path: path.write_text(source, encoding="utf-8"))

    @property
    def source(self) -> str:
        """The plug-in's text."""
        return (self.folder / "architecture.py").read_text(encoding="utf-8")

    def store_outcome(self, arrays: Mapping[str, np.ndarray], weights: Mapping[str, Tensor]) -> None:
        """Keep the final test pass and the scored weights."""

        def write_arrays(path: Path) -> None:
            with open(path, "wb") as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

        self._write("test.npz", write_arrays)
        self._write("weights.pt", lambda path: torch.save(dict(weights), path))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what `store_outcome` kept: logits, labels, hardest, images."""
        with np.load(self.folder / "test.npz", allow_pickle=False) as stored:
            return dict(stored)

    def weights(self) -> dict[str, Tensor]:
        """Return the scored weights; never unpickles code."""
        return torch.load(self.folder / "weights.pt", map_location="cpu", weights_only=True)

    def _write(self, name: str, write: Any) -> None:
        """Write a file beside its place and rename it, so that a kill leaves the old one or the new one."""
        beside = self.folder / f"{name}.part"
        write(beside)
        os.replace(beside, self.folder / name)


def all_journals() -> list[Journal]:
    """Return every journal there is, oldest first."""
    if not journals().is_dir():
        return []
    return [Journal(folder) for folder in sorted(journals().iterdir()) if (folder / "events.jsonl").exists()]
