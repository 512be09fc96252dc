"""Time a training step on a device, its parts, and what else was thought of: bench.py PART ... [--device cuda]

Each part prints lines of JSON. On a CPU, and on a pretended GPU, everything is done once and the times mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import inside
import torch
from torch import Tensor
from torch.nn import functional as F

Work = Callable[[], Any]

SIDE_BY_SIDE = (1, 2, 4, 8, 12, 16, 20)


def say(**found: object) -> None:
    """Print a line of JSON."""
    print(json.dumps(found, default=str), flush=True)


@contextlib.contextmanager
def telling(**about: object) -> Iterator[None]:
    """Say what fails, and go on: the rest is worth having."""
    try:
        yield
    except Exception as error:
        say(**about, error=f"{type(error).__name__}: {error}"[:400])


class Bench:
    """Times work on one device.

    Attributes:
        few: do everything once, and with little.
    """

    def __init__(self, path: str, dataset: str, device: str) -> None:
        self.path, self.dataset, self.name = path, dataset, device
        self.device = torch.device(device)
        self.on_gpu = device == "cuda"
        pretended = self.on_gpu and torch.cuda.get_device_name().startswith("Pretended")
        self.few = pretended or not self.on_gpu

    def ready(self) -> inside.Ready:
        """Prepare the training of the network, as a run does."""
        return inside.ready(self.path, self.dataset, self.name)

    def wait(self) -> None:
        """Wait until the device has done all that is queued."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def milliseconds(self, work: Work, times: int = 30, rounds: int = 5) -> float:
        """Return the milliseconds that one call takes the device: the median of some rounds of calls."""
        times, rounds = (1, 1) if self.few else (times, rounds)
        work()
        self.wait()
        return round(statistics.median(self._round(work, times) for _ in range(rounds)), 4)

    def _round(self, work: Work, times: int) -> float:
        if not self.on_gpu:
            began = time.perf_counter()
            for _ in range(times):
                work()
            return 1000 * (time.perf_counter() - began) / times
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(times):
            work()
        end.record()
        self.wait()
        return start.elapsed_time(end) / times

    def captured(self, work: Work) -> Work:
        """Capture work as a CUDA graph, and return what replays it; on a CPU, the work itself."""
        if not self.on_gpu:
            return work
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            work()
        return graph.replay

    def maps(self, *shape: int) -> Tensor:
        """Return random numbers in bfloat16, channels last, that want a gradient."""
        tensors_by_name = torch.randn(*shape, device=self.device, dtype=torch.bfloat16)
        return tensors_by_name.to(memory_format=torch.channels_last).requires_grad_()


# --- the harness's step -----------------------------------------------------------------------------------


def ceilings(bench: Bench) -> None:
    """What the device does at best, and what the smallest kernel costs in a graph."""
    source = torch.ones(2**20 if bench.few else 2**28, device=bench.device)
    target = torch.empty_like(source)
    took = bench.milliseconds(lambda: target.copy_(source))
    say(what="copy", GB_per_s=round(8 * source.numel() / took / 1e6, 1))
    side = 256 if bench.few else 8192
    square = torch.ones(side, side, device=bench.device, dtype=torch.bfloat16)
    took = bench.milliseconds(lambda: square @ square, 10)
    say(what="matrix product", TFLOP_per_s=round(2 * side**3 / took / 1e9, 1))
    few = torch.zeros(64, device=bench.device)

    def chain() -> None:
        for _ in range(200):
            few.add_(1)

    took = bench.milliseconds(bench.captured(chain))
    say(what="the smallest kernel in a graph", microseconds=round(1000 * took / 200, 3))


def step(bench: Bench) -> None:
    """A step as a run takes it, an epoch of them, and the parts of a step; captured and not, in both precisions."""
    found = bench.ready()
    began = time.perf_counter()
    steps = inside.Steps(found)
    bench.wait()
    say(what="getting ready", how=found.chosen.label, seconds=round(time.perf_counter() - began, 2))
    took = bench.milliseconds(steps.whole_batch, 50)
    say(what="step", how=found.chosen.label, ms=took, images_per_s=round(1000 * steps.batch / took))
    began = time.perf_counter()
    steps.epoch()
    queued = time.perf_counter() - began
    bench.wait()
    say(what="epoch", queued_s=round(queued, 4), seconds=round(time.perf_counter() - began, 4), steps=steps.count)
    for precision in ("bfloat16", "float32"):
        how = replace(found.chosen, execution="eager", padded=False, precision=precision)
        eager = inside.Steps(found, how)
        say(what="step", how=how.label, ms=bench.milliseconds(eager.whole_batch, 10, 3))
        for part, work in eager.parts():
            with telling(part=part, precision=precision):
                say(part=part, precision=precision, ms=bench.milliseconds(bench.captured(work)))


def nodes(bench: Bench) -> None:
    """What a replayed step launches, by the profiler's word: how many, and the time of each by name."""
    if bench.few:  # on a pretended GPU nodes.py counts, and the profiler finds no driver
        return
    steps = inside.Steps(bench.ready())
    steps.whole_batch()
    bench.wait()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiled:
        steps.whole_batch()
        bench.wait()
    count: Counter[str] = Counter()
    microseconds: Counter[str] = Counter()
    for event in profiled.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            count[event.name] += 1
            microseconds[event.name] += event.time_range.elapsed_us()
    say(what="nodes of a step", nodes=count.total(), microseconds=microseconds.total())
    for name, took in microseconds.most_common(25):
        say(kernel=name[:160], times=count[name], microseconds=took)


def streams(bench: Bench) -> None:
    """What it brings to replay the steps of several trainings side by side, each on a stream of its own."""
    if not bench.on_gpu:
        return
    found = bench.ready()
    trainings = []
    for _ in range(SIDE_BY_SIDE[-1]):
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            trainings.append((stream, inside.Steps(found)))
    bench.wait()
    say(memory_GiB=round(torch.cuda.memory_reserved() / 2**30, 2), trainings=len(trainings))
    times = 3 if bench.few else 60
    for at_once in SIDE_BY_SIDE:
        began = time.perf_counter()
        for _ in range(times):
            for stream, steps in trainings[:at_once]:
                with torch.cuda.stream(stream):
                    steps.whole_batch()
        queued = time.perf_counter() - began
        bench.wait()
        took = time.perf_counter() - began
        images = at_once * times * trainings[0][1].batch
        say(at_once=at_once, images_per_s=round(images / took), cpu_share=round(queued / took, 2))


def score(bench: Bench) -> None:
    """Scoring the held-out images, by how many at a time, and asking them again at the end of a run."""
    steps = inside.Steps(bench.ready())
    for batch in (250, 1000, 2500, 10_000):
        say(score_batch=batch, ms=bench.milliseconds(lambda batch=batch: steps.score(batch), 3, 3))  # type: ignore[misc]
    logits = steps.score()
    began = time.perf_counter()
    with telling(what="asking again"):
        steps.ask_again(logits)
        bench.wait()
        say(what="asking again", seconds=round(time.perf_counter() - began, 2))


def augment(bench: Bench) -> None:
    """All images of an epoch augmented at once, against one batch after the other: time, and the same bits?"""
    found = bench.ready()
    count, batch = len(found.dataset.train.labels), found.recipe.batch_size
    draws = torch.rand(count, inside.DRAWS, device=bench.device)
    order = torch.randperm(count, device=bench.device)
    first = order[:batch].clone()
    one = bench.milliseconds(bench.captured(lambda: inside.augmented(found, first, draws[:batch])))
    whole = bench.milliseconds(lambda: inside.augmented(found, order, draws), 3, 3)
    say(what="augmentation", batch_ms=one, epoch_by_batches_ms=round(one * count / batch, 2), epoch_at_once_ms=whole)
    together, alone = inside.augmented(found, order, draws)[:batch], inside.augmented(found, first, draws[:batch])
    say(what="augmentation", same_bits=torch.equal(together, alone), apart=float((together - alone).abs().max()))


# --- what else was thought of -----------------------------------------------------------------------------


def compile(bench: Bench) -> None:
    """torch.compile inside the captured graph: the network, and the network with the augmentation."""
    found = bench.ready()
    for mode in (None,) if bench.few else (None, "max-autotune-no-cudagraphs"):
        for with_augmentation in (False, True):
            about = {"compiled": "network and augmentation" if with_augmentation else "network", "mode": mode}
            with telling(**about):
                began = time.perf_counter()
                work = _compiled_step(bench, found, mode, with_augmentation)
                for _ in range(2):
                    work()
                bench.wait()
                say(**about, compile_s=round(time.perf_counter() - began, 1))
                say(**about, ms=bench.milliseconds(bench.captured(work), 50))


def _compiled_step(bench: Bench, found: inside.Ready, mode: str | None, with_augmentation: bool) -> Work:
    network = inside.graph_channels_last(found)
    fast: Callable[..., Tensor] = torch.compile(network, dynamic=False, mode=mode)
    shape: Callable[..., Tensor] = inside.augmented
    if with_augmentation:
        shape = torch.compile(shape, dynamic=False, mode=mode)
    optimizer = inside.optimizer(network, found.recipe)
    rows = torch.arange(min(found.recipe.batch_size, len(found.dataset.train.labels)), device=bench.device)
    draws = torch.rand(len(rows), inside.DRAWS, device=bench.device)
    labels = found.dataset.train.labels[rows]

    def work() -> None:
        optimizer.zero_grad()
        with torch.autocast(bench.name, torch.bfloat16):
            logits = fast(shape(found, rows, draws)).float()
        F.cross_entropy(logits, labels).backward()
        optimizer.step()

    return work


LAYERS = ((16, 16, 3, 26), (16, 30, 3, 24), (30, 16, 3, 11), (16, 32, 3, 7))
"""Convolutions of s6_gap: channels in and out, width of the kernel, and of the maps it is given."""


def grouped(bench: Bench) -> None:
    """The convolutions of several seeds as one grouped convolution, against one after the other; with backward."""
    seeds, batch = (2, 8) if bench.few else (20, 512)
    for inputs, outputs, kernel, side in LAYERS:
        apart = [
            (bench.maps(batch, inputs, side, side), bench.maps(outputs, inputs, kernel, kernel)) for _ in range(seeds)
        ]
        together = [
            (bench.maps(batch, seeds * inputs, side, side), bench.maps(seeds * outputs, inputs, kernel, kernel))
        ]
        for name, pairs, groups in (("grouped", together, seeds), ("one after the other", apart, 1)):
            about = {"layer": f"{inputs} to {outputs}, {side} x {side}", "seeds": seeds, "how": name}
            with telling(**about):
                work = bench.captured(lambda pairs=pairs, groups=groups: _convolve(pairs, groups))  # type: ignore[misc]
                say(**about, ms=bench.milliseconds(work, 5, 3))


def _convolve(pairs: Sequence[tuple[Tensor, Tensor]], groups: int) -> None:
    for images, weight in pairs:
        images.grad = weight.grad = None
        F.conv2d(images, weight, groups=groups).sum().backward()


def stacked(bench: Bench) -> None:
    """Several seeds as one network with stacked weights (vmap), one captured step for all, against `streams`."""
    found = bench.ready()
    for seeds in (2,) if bench.few else (5, 10, 20):
        with telling(stacked=seeds):
            work = _stacked_step(bench, found, seeds)
            took = bench.milliseconds(bench.captured(work), 10, 3)
            images = seeds * min(found.recipe.batch_size, len(found.dataset.train.labels))
            say(stacked=seeds, ms=took, images_per_s=round(1000 * images / took))


def _stacked_step(bench: Bench, found: inside.Ready, seeds: int) -> Work:
    """Return a step of plain gradient descent of `seeds` networks, each on a batch of its own."""
    network = found.network.to(bench.device).train()
    parameters, buffers = torch.func.stack_module_state([network] * seeds)  # type: ignore[arg-type]
    batch = min(found.recipe.batch_size, len(found.dataset.train.labels))
    rows = torch.arange(batch, device=bench.device)
    draws = torch.rand(batch, inside.DRAWS, device=bench.device)
    images = inside.augmented(found, rows, draws).expand(seeds, -1, -1, -1, -1).contiguous()
    labels = found.dataset.train.labels[rows].expand(seeds, -1).contiguous()

    # Cast by hand: under vmap, autocast mixes the types of a batch norm's gradients.
    def loss(own: dict[str, Tensor], state: dict[str, Tensor], mine: Tensor, wanted: Tensor) -> Tensor:
        rounded = {name: parameter.bfloat16() for name, parameter in own.items()}
        logits = torch.func.functional_call(network, (rounded, state), (mine.bfloat16(),))
        return F.cross_entropy(logits.float(), wanted)

    state = {name: value.bfloat16() if value.is_floating_point() else value for name, value in buffers.items()}
    gradients = torch.func.vmap(torch.func.grad(loss), randomness="different")
    held = {name: parameter.detach() for name, parameter in parameters.items()}

    def work() -> None:
        moved = gradients(held, state, images, labels)
        torch._foreach_add_(list(held.values()), [moved[name] for name in held], alpha=-0.05)

    return work


PARTS: dict[str, Callable[[Bench], None]] = {
    part.__name__: part for part in (ceilings, step, nodes, streams, score, augment, compile, grouped, stacked)
}


def main(arguments: Sequence[str]) -> None:
    """Time some parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", choices=PARTS, nargs="+")
    parser.add_argument("--file", default="architectures/s6_gap.py")
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    args = parser.parse_args(arguments)
    for part in args.parts:
        PARTS[part](Bench(args.file, args.dataset, args.device))


if __name__ == "__main__":
    main(sys.argv[1:])
