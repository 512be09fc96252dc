"""Turn a plug-in file into a submission: what runs in the confined process.

Here the file is executed, and its network is built and checked for what only the running module can show, so that an
honest author reads the line and the fix. Nothing depends on these checks: a file that defeats them has written another
submission, which the harness audits like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.fx import GraphModule

from harness import audit, plugins
from harness.errors import AuditError, Refusal
from harness.seeds import seed_everything
from harness.submission.counted import digest_of_start
from harness.submission.document import MODES, VERSION, Submission
from harness.submission.names import refuse_odd_name
from harness.submission.network import Submitted
from harness.submission.on_cpu import OnCPU
from harness.submission.pack import Packed
from harness.submission.record import Recorder


def submit(request: Mapping[str, Any], _ask: object) -> dict[str, Any]:
    """Execute a file, build its network with the knobs of the request, and reply the content of a submission."""
    return plugins.reply(lambda: submission_of(request["source"], request["path"], request["knobs"]))


def digest(request: Mapping[str, Any], _ask: object) -> dict[str, Any]:
    """Execute a file and build its network from a seed, unrecorded as in protocol 1; reply the digest of its start."""
    return plugins.reply(lambda: digest_of_start(_unrecorded(**request)))


def submission_of(source: str, path: str, knobs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of the submission of a file.

    Raises:
        Refusal: the file breaks the contract, or its network a rule of the audit.
        OutOfMemory: there is not enough memory.
    """
    network, recorder = _built(source, path, knobs, seed=0)
    for name, _ in audit.every_tensor(network):
        refuse_odd_name(name, path)
    with OnCPU():
        audit.refuse_odd_module(network, path)
        size = audit.probe_forward(network, path)
        programs = {mode: audit.export(network, mode == "train", path) for mode in MODES}
    for program in programs.values():
        audit.refuse_foreign_operators(program, path)
        audit.refuse_storage(program, path)
    packed = Packed()
    packed.add_registered(network)
    graphs, shown = {}, {}
    for mode, program in programs.items():
        graphs[mode], shown[mode] = packed.graph(program, mode, path)
    content = {
        "version": VERSION,
        "graphs": graphs,
        "shown": shown,
        "tensors": packed.entries,
        "layers": [[*layer] for layer in packed.layers],
        "doubt": {},
        "start": recorder.program(packed.numbered(), lambda: _seed(0)),
    }
    try:
        with OnCPU():
            train, evaluation = (programs[mode].module() for mode in MODES)
            audit.refuse_unfaithful(network, train, evaluation, path)
            _refuse_branch_in_training(train, Submitted(Submission.of(content), packed.copied()), path)
            _refuse_another(network, recorder, *_built(source, path, knobs, seed=1), packed, size, path)
    except Refusal as error:
        content["doubt"] = plugins.as_data(error)
    return content


def _built(source: str, path: str, knobs: Mapping[str, Any], seed: int) -> tuple[nn.Module, Recorder]:
    """Execute the file and build its network from a seed, as each run of that seed is started; and record how."""
    _seed(seed)
    with OnCPU(), Recorder(path) as recorder:
        network = plugins.build_network(plugins.execute(source, path), knobs)
    return network, recorder


def _unrecorded(source: str, path: str, knobs: Mapping[str, Any], seed: int) -> nn.Module:
    _seed(seed)
    with OnCPU():
        return plugins.build_network(plugins.execute(source, path), knobs)


def _seed(seed: int) -> None:
    seed_everything(seed, 0, "weights")


def _form(start: Mapping[str, Any]) -> dict[str, Any]:
    """Return a start without the bytes of its constants: those drawn with numpy differ from seed to seed."""
    return {**start, "constants": [(constant["dtype"], constant["shape"]) for constant in start["constants"]]}


def _refuse_branch_in_training(train: GraphModule, handed_over: Submitted, path: str) -> None:
    """Refuse a network that selects what it trains by the number of images: the graph handed over has one way only."""
    sizes = audit.accepted_sizes(train)
    if len(sizes) == audit.MOST_SHOWN - 1:
        return
    if sizes != audit.accepted_sizes(audit.export(handed_over, True, path).module()):
        raise AuditError(
            "export",
            "In training, forward computes otherwise for other numbers of images.",
            where=path,
            allowed="forward must be plain tensor code: no branch on values, no fixed batch size, no attribute set.",
            hint="Do not branch or loop on images.shape[0]; maps.chunk(k) splits nearly any batch into k parts.",
        )


def _refuse_another(
    network: nn.Module,
    recorder: Recorder,
    other: nn.Module,
    other_recorder: Recorder,
    packed: Packed,
    size: int,
    path: str,
) -> None:
    """Refuse a file that builds different networks for two seeds."""
    both = packed.in_both(network, other)
    if both and audit.calls_digest(network, size) == audit.calls_digest(other, size):
        first, second = ({number: pair[k] for number, pair in both.items()} for k in (0, 1))
        starts = recorder.program(first, lambda: _seed(0)), other_recorder.program(second, lambda: _seed(1))
        if _form(starts[0]) == _form(starts[1]):
            return
    raise AuditError(
        "another-network",
        "Built again with the same knobs, the network has other parameters or computes differently.",
        where=path,
        allowed="The same knobs build the same layers; only initial values are random.",
        hint="Remove random choices and counters from build, except for initial weights.",
    )
