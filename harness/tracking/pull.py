"""Imports finished runs of other machines from the store, each verified before it is kept."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from harness import data
from harness import journal as journals
from harness.journal import Imported, Journal, archive
from harness.tracking.client import COMPLETE, RUN_ID, Client
from harness.tracking.connection import reason_of, without_password

if TYPE_CHECKING:
    from mlflow.entities import Run


def pull_runs(client: Client) -> Iterator[Imported]:
    """Import every finished run that the store has and this machine lacks; a run with a taken id is renamed."""
    for name, experiment in client.experiments().items():
        if name in data.NAMES:
            for run in client.search(experiment, f"attributes.status = 'FINISHED' and tags.`{COMPLETE}` = 'true'"):
                run_id = run.data.tags.get(RUN_ID, "")
                if run_id and not _is_here(run, run_id):
                    yield _fetch(client, run, run_id)


def _is_here(run: Run, run_id: str) -> bool:
    """Return whether the run with this id is here; another run with its id does not hide it."""
    try:
        record = Journal(journals.journal_folder() / run_id).read()
        if record is None:
            return False
        here = record.job.sha256, str(record.job.seed), record.typed_epochs()[-1].held_out_accuracy
    except (*journals.DAMAGE, IndexError):
        return False
    known = run.data
    return here == (known.tags.get("source_sha256"), known.params.get("seed"), known.metrics.get("test/final_accuracy"))


def _fetch(client: Client, run: Run, run_id: str) -> Imported:
    source = f"{journals.safe_name(run.data.tags.get('architecture', ''))}.py"
    names = {"journal.jsonl": "events.jsonl", source: "architecture.py"}
    with tempfile.TemporaryDirectory() as folder:
        try:
            for artifact in (*names, journals.OUTCOME):
                got = client.download(run.info.run_id, artifact, folder)
                got.rename(Path(folder) / names.get(artifact, artifact))
            for artifact in archive.OPTIONAL & {*client.files(run.info.run_id)}:
                client.download(run.info.run_id, artifact, folder)
        except Exception as error:
            client.experiments()  # raises if the server is gone; else this run lacks a file
            return Imported(run_id, f"its artifacts cannot be downloaded: {reason_of(error)}")
        return archive.receive(run_id, Path(folder), without_password(client.uri))
