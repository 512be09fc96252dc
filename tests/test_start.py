"""A start that was recorded once is made again for every seed, and tells what its author brought along."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness import plugins
from harness.errors import AuditError
from harness.seeds import seed_everything
from harness.submission.patterns import Patterns, authors_numbers
from harness.submission.record import Recorder
from harness.submission.replay import refuse_uninitialised, replay, same_bits
from harness.submission.start import check_start

ROOT = Path(__file__).parent.parent
EIGHT = sorted((ROOT / "architectures").glob("*.py"))
FILES = [*EIGHT, *sorted((ROOT / "tests" / "valid_architectures").glob("*.py"))]
SEEDS = (0, 3, 7)


def tensors(network: nn.Module) -> dict[str, Tensor]:
    every = (network.named_parameters(remove_duplicate=False), network.named_buffers(remove_duplicate=False))
    return {name: tensor for named in every for name, tensor in named}


def fresh(source: str, path: str, seed: int) -> dict[str, Tensor]:
    """Build as a run does today."""
    seed_everything(seed, 0, "weights")
    architecture = plugins.execute(source, path)
    return tensors(plugins.build_network(architecture, architecture.knobs))


def record(source: str, path: str, seed: int = 0) -> dict[str, Any]:
    reseed = functools.partial(seed_everything, seed, 0, "weights")
    reseed()
    with Recorder(path) as recorder:
        architecture = plugins.execute(source, path)
        network = plugins.build_network(architecture, architecture.knobs)
    return json.loads(json.dumps(recorder.program(tensors(network), reseed)))


def replays(program: dict[str, Any], source: str, path: str) -> bool:
    """Whether the program makes, for each seed, the bits of a fresh build, in memory of their own."""
    for seed in SEEDS:
        first = fresh(source, path, seed)
        seed_everything(seed, 0, "weights")
        again = replay(program)
        assert first.keys() == again.keys()
        assert len({tensor.untyped_storage().data_ptr() for tensor in again.values() if tensor.numel()}) == len(again)
        assert all(tensor.is_contiguous() and not tensor.requires_grad for tensor in again.values())
        if not all(same_bits(first[name], again[name]) for name in first):
            return False
    return True


def plugin(body: str, top: str = "") -> str:
    """Return a file whose network is made by the statements `body`, which fill `net`, a module."""
    lines = "\n    ".join(body.strip().splitlines())
    return (
        '"""Made up."""\nimport copy, io, math\nimport numpy as np\nimport torch\nfrom torch import nn\n'
        f"from torch.nn.utils import parametrizations\n{top}\n\n"
        f"def build() -> nn.Module:\n    net = nn.Module()\n    {lines}\n    return net\n"
    )


def made_up(body: str, top: str = "") -> tuple[dict[str, Any], str, str]:
    source, path = plugin(body, top), "made_up.py"
    return record(source, path), source, path


def measured(body: str, top: str = "") -> Patterns:
    return authors_numbers(made_up(body, top)[0])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_start_of_file_replays_to_todays_bits(path: Path) -> None:
    source = path.read_text()
    program = record(source, str(path))
    if path.stem == "drawn_with_numpy":  # what numpy draws is a constant, and the same for every seed
        return
    assert replays(program, source, str(path))
    assert program == record(source, str(path), 1)
    if path in EIGHT:
        found = authors_numbers(program)
        assert (found.brought, found.extra) == (0, 0)
        assert found.structure < 150


HONEST = {
    "orthogonal": "net.a = nn.Parameter(nn.init.orthogonal_(torch.empty(8, 12)))",
    "trunc_normal": "net.a = nn.Parameter(nn.init.trunc_normal_(torch.empty(30, 30), std=0.02))",
    "trunc_normal in a tail": "net.a = nn.Parameter(nn.init.trunc_normal_(torch.empty(30, 30), 0.0, 1.0, 1.0, 2.0))",
    "dirac": "net.a = nn.Conv2d(6, 8, 3)\nnn.init.dirac_(net.a.weight)",
    "sparse": "net.a = nn.Parameter(nn.init.sparse_(torch.empty(20, 9), 0.3))",
    "xavier": "net.a = nn.Linear(5, 6)\nnn.init.xavier_uniform_(net.a.weight)\nnn.init.xavier_normal_(net.a.weight)",
    "kaiming": "net.a = nn.Conv2d(2, 6, 3)\nnn.init.kaiming_normal_(net.a.weight, nonlinearity='relu')",
    "eye": "net.a = nn.Parameter(nn.init.eye_(torch.empty(5, 7)))",
    "embedding": "net.a = nn.Embedding(9, 4, padding_idx=2)",
    "lstm": "net.a = nn.LSTM(5, 6, bidirectional=True)",
    "weight norm": "net.a = parametrizations.weight_norm(nn.Conv2d(2, 6, 3))",
    "spectral norm": "net.a = parametrizations.spectral_norm(nn.Linear(7, 6))",
    "five spectral norms": "net.a = nn.Sequential(*[parametrizations.spectral_norm(nn.Conv2d(3 + i, 4 + i, 3))"
    " for i in range(5)])",
    "orthogonal parametrization": "net.a = parametrizations.orthogonal(nn.Linear(6, 6))",
    "tied": "net.a = nn.Linear(6, 6)\nnet.b = nn.Linear(6, 6)\nnet.b.weight = net.a.weight",
    "two views of one memory": "t = torch.randn(12)\nnet.a = nn.Parameter(t[:6])\n"
    "net.b = nn.Parameter(t[3:].view(3, 3).t())",
    "attention": "net.a = nn.MultiheadAttention(8, 2)",
    "transformer": "net.a = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 3)",
    "deepcopy": "net.a = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))\nnet.b = copy.deepcopy(net.a)\n"
    "net.c = copy.deepcopy(parametrizations.spectral_norm(nn.Linear(4, 3)))",
    "data": "net.a = nn.Linear(3, 4)\nnet.a.weight.data = torch.randn(4, 3) * 0.02\nnet.a.bias.data[1:3] = 0.0",
    "own bounded normal": "net.a = nn.Parameter(torch.empty(40).uniform_(-0.9, 0.9).erfinv_().mul_(1.4).clamp_(-1, 1))",
    "drawn at the top": "net.a = nn.Parameter(TOP.clone())\nnet.b = nn.Linear(3, 3)",
    "dead draw": "torch.randn(100)\nnet.a = nn.Linear(3, 3)",
    "runs forward once": "net.a = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.3),"
    " nn.MaxPool2d(2), nn.Flatten(), nn.Linear(507, 4), nn.BatchNorm1d(4))\nnet.a(torch.randn(5, 1, 28, 28))",
    "causal mask": "net.register_buffer('a', torch.full((28, 28), float('-inf')).triu(1))",
    "coordinates": "net.register_buffer('a', torch.stack(torch.meshgrid(torch.linspace(-1, 1, 28),"
    " torch.linspace(-1, 1, 28), indexing='ij')))",
    "positions": "p, k = torch.arange(28.0)[:, None], torch.exp(torch.arange(0, 16, 2) * (-math.log(10000.0) / 16))\n"
    "a = torch.zeros(28, 16)\na[:, 0::2] = torch.sin(p * k)\na[:, 1::2] = torch.cos(p * k)\n"
    "net.register_buffer('a', a)",
    "spectrum": "net.register_buffer('a', torch.fft.rfft2(torch.hann_window(8)[:, None] * torch.ones(8)).abs())",
    "batch norm with cumulative average": "net.a = nn.BatchNorm2d(4, momentum=None)",
    "float64 and back": "net.a = nn.Parameter(torch.randn(5, dtype=torch.float64).float())",
    "index table": "net.register_buffer('a', torch.tensor([[i, (i * 7) % 31] for i in range(8)]))",
    "random split": "net.a = nn.Parameter(torch.randperm(8, generator=torch.default_generator).float())",
    "value of a draw as a size": "net.a = nn.Parameter(torch.zeros(3) + torch.rand(1))",
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_start_replays_to_todays_bits(name: str) -> None:
    top = "TOP = torch.randn(5)" if name == "drawn at the top" else ""
    program, source, path = made_up(HONEST[name], top)
    assert replays(program, source, path)
    assert program == record(source, path, 1)
    found = authors_numbers(program)
    assert found.structure < 256
    assert found.brought == 0


TABLE = "TABLE = [round(math.sin(i * i), 6) for i in range(970)]"
"""Stands for 970 weights that were trained at home: as many literals of a file would give the same program."""

BROUGHT = {
    "literal list": "net.a = nn.Parameter(torch.tensor(TABLE))",
    "numpy": "net.a = nn.Parameter(torch.from_numpy(np.array(TABLE)).float().view(10, 97))",
    "written by numpy": "net.a = nn.Parameter(torch.zeros(970))\nnet.a.detach().numpy()[:] = TABLE",
    "loaded bytes": "f = io.BytesIO()\ntorch.save(torch.tensor(TABLE), f)\nf.seek(0)\n"
    "net.a = nn.Parameter(torch.load(f))",
    "noise beside a table": "net.a = nn.Parameter(0.1 * torch.randn(970) + 0.3 * torch.tensor(TABLE))",
    "signs of a table": "net.a = nn.Parameter(torch.randn(970).abs() * torch.tensor(TABLE).sign())",
    "one fill at a time": "net.a = nn.Parameter(torch.randn(970))\n"
    "with torch.no_grad():\n    for i, number in enumerate(TABLE):\n        net.a[i].fill_(number)",
    "one whole tensor at a time": "net.a = nn.Parameter(torch.cat([torch.full((1,), number) for number in TABLE]))",
    "16 values by index": "net.a = nn.Parameter(torch.randn(970))\nwith torch.no_grad():\n"
    "    for i, number in enumerate(TABLE):\n        net.a[i] = round(8 * number) / 8",
    "packed by four bits": "numbers = [round(7 * number) + 8 for number in TABLE]\n"
    "packed = torch.tensor([sum(n << 4 * k for k, n in enumerate(numbers[i:i + 15])) for i in range(0, 970, 15)])\n"
    "shift = torch.arange(0, 60, 4)\n"
    "net.a = nn.Parameter((((packed[:, None] >> shift) & 15).flatten()[:970] - 8) / 7.0)",
    "packed, under noise": "packed = torch.tensor([sum((n > 0) << k for k, n in enumerate(TABLE[i:i + 60])) for i in"
    " range(0, 970, 60)])\nsigns = ((packed[:, None] >> torch.arange(60)) & 1).flatten()[:970] * 2.0 - 1\n"
    "net.a = nn.Parameter(signs * torch.rand(970))",
    "numbers as sizes": "every = torch.arange(2.0**20)\n"
    "net.a = nn.Parameter(torch.stack([every[int(5e5 * (1 + number))] for number in TABLE]) * 1e-6 - 1)",
    "ternary by views": "net.a = nn.Parameter(torch.zeros(970))\nwith torch.no_grad():\n"
    "    for i, number in enumerate(TABLE):\n        if abs(number) > 0.5:\n            net.a[i] = number > 0\n",
}


@pytest.mark.parametrize("name", BROUGHT)
def test_weights_from_home_are_measured(name: str) -> None:
    program, source, path = made_up(BROUGHT[name], TABLE)
    assert replays(program, source, path)
    assert measured(BROUGHT[name], TABLE).brought >= 100


def test_pattern_counts_once() -> None:
    assert measured("net.a = nn.Parameter(torch.tensor(TABLE))", TABLE) == Patterns({"a": 969}, 0, {}, 0, 0, 11, 0, 0)
    assert measured("net.register_buffer('a', torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]) / 8)").brought == 9
    first = measured(
        "net.a = nn.Parameter(torch.randn(90))\nwith torch.no_grad():\n    net.a[:9] = torch.tensor(TABLE[:9])", TABLE
    )
    assert (first.brought, first.extra) == (9, 0)
    noisy = measured("net.a = nn.Parameter(0.1 * torch.randn(970) + 0.3 * torch.tensor(TABLE))", TABLE)
    assert (noisy.patterns["a"], noisy.extra) == (969, 970)


def test_values_drawn_with_numpy_differ_between_recordings() -> None:
    body = "net.a = nn.Parameter(torch.from_numpy(np.random.randn(20)).float())\nnet.b = nn.Linear(3, 3)"
    program, source, path = made_up(body)
    assert program != record(source, path, 1)
    assert authors_numbers(program).patterns == {"a": 19}


def test_value_of_a_draw_as_a_literal_differs_between_recordings() -> None:
    program, source, path = made_up("net.a = nn.Parameter(torch.full((3,), torch.rand(1).item()))")
    assert program != record(source, path, 1)


REFUSED = {
    "generator": "net.a = nn.Parameter(torch.randn(4, generator=torch.Generator().manual_seed(3)))",
    "manual_seed": "torch.manual_seed(3)\nnet.a = nn.Linear(3, 3)",
    "fork_rng": "with torch.random.fork_rng():\n    torch.randn(3)\nnet.a = nn.Linear(3, 3)",
    "never written": "net.a = nn.Parameter(torch.empty(3, 3))",
    "written in part": "net.a = nn.Parameter(torch.empty(3, 3))\nnn.init.zeros_(net.a[:2])",
    "operator": "net.a = nn.Parameter(torch.special.zeta(torch.rand(3) + 2, 1.0))",
}


@pytest.mark.parametrize("name", REFUSED)
def test_start_is_refused(name: str) -> None:
    with pytest.raises(AuditError) as refused:
        made_up(REFUSED[name])
    assert refused.value.rule == "start"
    if name not in ("never written", "written in part"):
        assert refused.value.where == "made_up.py:11"


def program_of(*steps: list[Any], state: int | None = None) -> dict[str, Any]:
    outs = sum(step[3] for step in steps)
    return {"constants": [], "steps": list(steps), "state": {"a": {"ref": outs - 1 if state is None else state}}}


ZEROS = ["aten.zeros.default", [[2]], {}, 1]

SMALLEST = (
    ["aten.full.default", [[1, 1, 2], -(2**63) + 1], {"dtype": {"dtype": "int64"}}, 1],
    ["aten.sub.Scalar", [{"ref": 0}, 1], {}, 1],
)
MINUS_ONE = ["aten.full.default", [[2], -1], {"dtype": {"dtype": "int64"}}, 1]

MALFORMED = {
    "no dict": [],
    "unknown operator": program_of(["aten.from_file.default", ["/etc/passwd"], {}, 1]),
    "foreign space": program_of(["prims.add.default", [1, 2], {}, 1]),
    "unknown overload": program_of(["aten.zeros.nothing", [[2]], {}, 1]),
    "operator on lists": program_of(["aten.mul_.t", [[1], 2**60], {}, 0]),
    "too many digits": program_of(ZEROS, ["aten.round.decimals", [{"ref": 0}], {"decimals": 2**62}, 1]),
    "too many chunks": program_of(ZEROS, ["aten.chunk.default", [{"ref": 0}, 2**31], {}, 1]),
    "attribute of an operator": program_of(["aten.zeros.__class__", [[2]], {}, 1]),
    "set_": program_of(ZEROS, ["aten.set_.default", [{"ref": 0}], {}, 1]),
    "resize_": program_of(ZEROS, ["aten.resize_.default", [{"ref": 0}, [9]], {}, 1]),
    "reference to the future": program_of(["aten.clone.default", [{"ref": 0}], {}, 1]),
    "negative reference": program_of(ZEROS, ["aten.clone.default", [{"ref": -1}], {}, 1]),
    "huge": program_of(["aten.zeros.default", [[2**40]], {}, 1]),
    "huge by broadcast": program_of(
        ["aten.zeros.default", [[2**14, 1]], {}, 1],
        ["aten.zeros.default", [[1, 2**14]], {}, 1],
        ["aten.add.Tensor", [{"ref": 0}, {"ref": 1}], {}, 1],
    ),
    "huge by out": program_of(ZEROS, ["aten.eye.out", [2**16], {"out": {"ref": 0}}, 1]),
    "outside of memory": program_of(ZEROS, ["aten.as_strided.default", [{"ref": 0}, [9], [1], 0], {}, 1]),
    "index outside": program_of(ZEROS, ["aten.select.int", [{"ref": 0}, 0, 5], {}, 1]),
    "generator": program_of(["aten.rand.generator", [[2]], {"generator": "x"}, 1]),
    "device": program_of(["aten.zeros.default", [[2]], {"device": "cuda"}, 1]),
    "pinned": program_of(["aten.zeros.default", [[2]], {"pin_memory": True}, 1]),
    "wrong number of results": program_of(["aten.zeros.default", [[2]], {}, 2]),
    "sizes of a norm": program_of(
        ["aten.zeros.default", [[2, 3]], {}, 1],
        ZEROS,
        ["aten.native_batch_norm.default", [{"ref": 0}, {"ref": 1}, None, None, None, True, 0.1, 1e-5], {}, 3],
    ),
    "text for a number": program_of(["aten.full.default", [[2], "1"], {}, 1]),
    "smallest by -1": program_of(
        *SMALLEST,
        MINUS_ONE,
        ["aten.div.Tensor_mode", [{"ref": 1}, {"ref": 2}], {"rounding_mode": "trunc"}, 1],
    ),
    "smallest by -1 as a pool": program_of(
        *SMALLEST, ["aten.avg_pool2d.default", [{"ref": 1}, [1, 1]], {"divisor_override": -1}, 1]
    ),
    "whole number too large": program_of(["aten.full.default", [[2], 2**70], {}, 1]),
    "state outside": program_of(ZEROS, state=3),
    "no base64": {"constants": [{"dtype": "uint8", "shape": [3], "data": "!!!!"}], "steps": [], "state": {}},
    "too few bytes": {"constants": [{"dtype": "float32", "shape": [3], "data": "AAAA"}], "steps": [], "state": {}},
    "truth of two": {"constants": [{"dtype": "bool", "shape": [1], "data": "Ag=="}], "steps": [], "state": {}},
    "much memory in all": program_of(*[["aten.zeros.default", [[2**24]], {}, 1]] * 9),
    "long products": program_of(
        ["aten.zeros.default", [[2**11, 2**11]], {}, 1], *[["aten.mm.default", [{"ref": 0}, {"ref": 0}], {}, 1]] * 5
    ),
    "too many steps": program_of(*[ZEROS] * 20_001),
    "too many results": program_of(
        ["aten.zeros.default", [[10_000]], {}, 1], *[["aten.unbind.int", [{"ref": 0}], {}, 10_000]] * 11
    ),
    "trunc_normal_ for minutes": program_of(
        ["aten.zeros.default", [[2**20]], {}, 1], ["init.trunc_normal_", [{"ref": 0}, -3.99, 1.0, 0.0, 99.0], {}, 1]
    ),
    "trunc_normal_ between two numbers": program_of(
        ZEROS, ["init.trunc_normal_", [{"ref": 0}, 1 + 6e-8, 1e-10, 1 + 6e-8, 1 + 6.005e-8], {}, 1]
    ),
    "trunc_normal_ for ever": program_of(ZEROS, ["init.trunc_normal_", [{"ref": 0}, -3.0, 1.0, 0.0, 1e30], {}, 1]),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_bad_program_is_refused(name: str) -> None:
    with pytest.raises(AuditError) as refused:
        replay(MALFORMED[name])
    assert refused.value.rule in ("submission", "start")


@pytest.mark.parametrize("numbers", [(0.0, 0.02, -2.0, 2.0), (0.0, 1.0, -0.1, 0.2), (-3.0, 1.0, 0.0, 3.0)])
def test_truncated_normal_is_replayed_to_bits(numbers: tuple[float, ...]) -> None:
    torch.manual_seed(0)
    drawn = torch.nn.init.trunc_normal_(torch.zeros(9_000), *numbers)
    torch.manual_seed(0)
    program = program_of(
        ["aten.zeros.default", [[9_000]], {}, 1], ["init.trunc_normal_", [{"ref": 0}, *numbers], {}, 1]
    )
    assert torch.equal(replay(program)["a"], drawn)


def test_empty_memory_is_filled() -> None:
    program = program_of(["aten.empty.memory_format", [[3]], {}, 1])
    check_start(program)
    assert replay(program, 2.5)["a"].tolist() == [2.5] * 3
    with pytest.raises(AuditError, match="never written"):
        refuse_uninitialised(program)
