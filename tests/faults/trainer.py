"""A process that trains tiny.py on digits, as `run` does but for MLflow, and resumes where the last one was killed.

python trainer.py SEED EPOCHS [SETTING=VALUE ...]
"""

from __future__ import annotations

import sys

from harness import data, plugins, runs
from harness.cli import options
from harness.journal import mark_dead_runs
from harness.tracking import Tracker


class DeafTracker(Tracker):
    """Takes notice of nothing."""

    def __init__(self) -> None:
        super().__init__("nowhere")

    def enqueue(self, _: object) -> None:
        pass


def main(seed: int, epochs: int, given: dict[str, str]) -> None:
    mark_dead_runs({})
    architecture = plugins.load("tiny.py")
    knobs, recipe = options.parse_settings(architecture, {**given, "epochs": str(epochs)})
    jobs = runs.jobs(architecture, knobs, recipe, data.load("digits"), range(seed, seed + 1), "cpu")
    found = runs.find_existing_runs(jobs)
    if not found.finished:
        for event in runs.record(jobs[0], DeafTracker(), None, found.unfinished.get(seed)):
            if event:
                print(type(event).__name__, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), dict(argument.split("=") for argument in sys.argv[3:]))
