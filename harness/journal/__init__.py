"""The journal: the records of runs, written, read, verified, exported and imported.

The journal is the truth about a run. Everything else is a projection of it: MLflow, the leaderboard and the pages are
made from journals and can be made again (``python -m harness sync``). So a slow, broken or lost MLflow store costs no
result, and nothing is ever read back from MLflow but whole journals, which are verified on arrival.

**Files.** Each run has one folder, ``mlruns/journal/RUN_ID/``; the id holds the start time, the architecture's name
and the seed.

    events.jsonl      one JSON object a line, each with its event and its time in milliseconds since 1970
    architecture.py   the plug-in's text, exactly as it was trained
    network.json      the network as data: graphs, start, layers (`harness.submission`); this is what was trained
    test.npz          logits, predictions and labels of the final test pass; the most confidently wrong images
    weights.pt        the scored weights, as a plain state dict
    checkpoint-N-SHA.pt  the state of training after epoch N, named by its SHA-256; the last two, until the run ends
    lock              held by the process that trains the run
    mlflow.lock       held by the process that brings the run to MLflow
    profile.json.gz   where the time of one epoch went, if --profile was given
    carried.json      only in a run that was carried over from an older protocol: the network's hash, both protocols
    origin.json       only in an imported run: where it came from; such a run has no logits and no weights

**Order of events.** ``started`` (job, author, environment, ledger, model), one ``epoch`` after each epoch, and one
last event: ``finished`` with the result, or ``failed`` with a state (interrupted, diverged, out of memory, failed) and
a reason. An interrupted run may go on: ``resumed`` follows its ``failed``, then further epochs and a new last event.
After a user withdrew a finished run, a ``failed`` with the state ``withdrawn`` follows its ``finished``.

**What a kill leaves.** An event is flushed to the disk before the next one is made. A torn last line does not count and
is cut off before the next event is written. All other files are written beside their place and renamed, so a kill
leaves the old file or the new one. The order of writing does the rest: a checkpoint before the epoch it belongs to,
weights and test pass before ``finished``, and the checkpoints are deleted last.

**Lock and resume.** The operating system releases the lock when the process dies. So a run without a last event whose
lock is free has died; the next `run`, `tune`, `sync` or `doctor` on the same host appends ``failed`` with the state
``interrupted``. A run resumes from its newest intact checkpoint. An epoch that was recorded after that checkpoint is
trained again and must give the same numbers, or the run fails. Reading a checkpoint or weights never unpickles code.

**Types.** `Record` is any journal as read: running, broken or finished, its events still as dicts. `FinishedRun` is a
finished run in which every fact has a name and a type; leaderboard, MLflow and pages are made from it.

**Register.** ``mlruns/begun.jsonl`` has a line for every run that was begun and for every result, each with a hash of
the lines before it; `harness.journal.begun` describes it. It outlives the journals, so a deleted run is seen.

**Verification.** `verify_run` and `verify_outcome` are the one check that a finished run passes before it counts, for
runs of this machine and imported ones alike: types and ranges, hashes, the ledger's sum, and a score that follows from
the stored predictions. The check does not prove training: a person can write a whole consistent journal by hand.

**Verifications.** ``mlruns/verifications/`` has a record of every row that was trained again (``verify``); such a
training is no run. `harness.journal.verifications` describes it. Its folder ``unfinished`` holds the trainings of
verifications that are not concluded.

**Archive.** `archive` packs finished runs into one zip with a SHA-256 for each entry, and imports such a file. An
imported run is only ever read: no plug-in of it is executed, nothing of it is unpickled, and the board marks it. On
arrival `recount` has a confined process count its network from ``network.json``, and compares ledger and hash with the
record.

**What the format promises.** Field names are never renamed, as every recorded run carries them: those of the
dataclasses that are written by field (``tests/test_recorded_names.py`` lists them) and the keys of the events, such as
``anatomy`` and ``arithmetic`` for what the code calls model and mode. A new field has a default, so older journals
stay readable, and a reader passes over keys that it does not know. A run of another protocol version is kept and never
ranks, unless it was carried over.
"""

from harness.journal.archive import Imported
from harness.journal.begun import Begun, Register
from harness.journal.journal import (
    DAMAGE,
    OUTCOME,
    PROFILE,
    ROOT,
    Journal,
    all_journals,
    find_journal,
    journal_folder,
    mark_dead_runs,
    safe_name,
)
from harness.journal.outcome import Outcome, result_digest
from harness.journal.record import (
    MOST_AUTHOR,
    MOST_STATE,
    Carried,
    Environment,
    FinishedRun,
    Origin,
    Record,
    RunResult,
    RunStart,
    typed,
)
from harness.journal.recount import Counted, counted, recount, refuse_other_ledger
from harness.journal.run import Run
from harness.journal.verify import verify_outcome, verify_run

__all__ = [
    "DAMAGE",
    "MOST_AUTHOR",
    "MOST_STATE",
    "OUTCOME",
    "PROFILE",
    "ROOT",
    "Begun",
    "Carried",
    "Counted",
    "Environment",
    "FinishedRun",
    "Imported",
    "Journal",
    "Origin",
    "Outcome",
    "Record",
    "Register",
    "Run",
    "RunResult",
    "RunStart",
    "all_journals",
    "counted",
    "find_journal",
    "journal_folder",
    "mark_dead_runs",
    "recount",
    "refuse_other_ledger",
    "result_digest",
    "safe_name",
    "typed",
    "verify_outcome",
    "verify_run",
]
