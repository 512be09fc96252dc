"""Submissions: a network as data, handed over by the confined process that executed a plug-in's file.

A submission is not a program that runs where scores are made. A child process, which can reach neither data nor
records (`harness.confine`), executes the file, builds its network and hands over one JSON document:

- two graphs, of training and of evaluation mode: operators of an allow-list (`operators`) with plain arguments
  (`plain`);
- the network's tensors, with their names and kinds;
- the start: the operators by which `build` made each tensor (`start`), and the constants that they read, as raw bytes;
- the plug-in's lines and layers, for messages and tables.

The harness trusts none of it. It checks the document as it would a file of a stranger, rebuilds one module over tensors
of its own, and audits, trains and scores that. It replays the start under its own random generator for each seed, so a
weight that was not drawn there is a number of the author's and counts.

The confined process runs

1. `child`: executes the file and builds its network on the CPU (`on_cpu`),
2. `record`: notes on a `tape` every operator that makes a first value,
3. `pack`: writes the exported graphs as plain data.

What they check is for an author's convenience: a file that defeats them has handed over another document, which is
audited like any other. The harness then runs

4. `document`: reads the document and hashes what is trained; `names` and `operators` say what it may hold,
5. `start`: checks the program of the first values (`start_operators`), and `replay` runs it,
6. `network`: rebuilds the module,
7. `counted`: audits it, and adds what is the author's own in its start (`trained_start`): `patterns` finds it by what
   each tensor depends on (`dependence`) and by what the `structure` of the program hides.
"""

from __future__ import annotations

from collections.abc import Mapping

from harness import plugins
from harness.spec import Knob
from harness.submission.counted import audited, digest_of_start, network_of, started
from harness.submission.document import Submission, TensorEntry
from harness.submission.network import Submitted
from harness.submission.plain import reading
from harness.submission.recount import recounted
from harness.submission.start import check_start

__all__ = [
    "Submission",
    "Submitted",
    "TensorEntry",
    "audited",
    "digest_of_build",
    "digest_of_start",
    "network_of",
    "reading",
    "recounted",
    "started",
    "submit",
]


def submit(source: str, path: str, knobs: Mapping[str, Knob]) -> Submission:
    """Let a confined process execute a file and hand its network over as data.

    Raises:
        Refusal: the file breaks the contract, its network a rule, or what it handed over is malformed.
        CrashedError: the process died, hung, or was out of memory.
    """
    request = {"source": source, "path": path, "knobs": dict(knobs)}
    content = plugins.run_confined("harness.submission.child:submit", request)
    with reading():
        found = Submission.of(content)
        check_start(found.start)
    return found


def digest_of_build(source: str, path: str, knobs: Mapping[str, Knob], seed: int) -> str:
    """Let a confined process build a file's network from a seed, without a replay; return `digest_of_start` of it.

    Raises:
        Refusal, CrashedError: as `submit`.
    """
    request = {"source": source, "path": path, "knobs": dict(knobs), "seed": seed}
    return str(plugins.run_confined("harness.submission.child:digest", request))
