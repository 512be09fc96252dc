"""The stages of a proof, in order of value. Started by proof.py, which makes the environment ready.

Every check adds a line to results.jsonl, flushed at once: a kill loses the stage at work and no other.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any, TypeVar

import torch

from harness import plugins
from harness.cli import options
from harness.journal import Journal, Record, all_journals

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PACKED = ROOT / ".gpu"

DONE = (0, 7)
"""Exit codes of a command that did its work; 7 where there is no MLflow to tell of it."""

KILLED = -signal.SIGKILL

Item = TypeVar("Item")

MOST_BYTES = 15 * 2**20
"""A larger file does not come back from the GPU machine."""


def architecture(name: str) -> str:
    """Return the path of a file of architectures/, as it is typed at the checkout's root."""
    return f"architectures/{name}.py"


# --- the proof --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code, seconds, and what it printed."""

    code: int
    seconds: float
    said: str

    @property
    def told(self) -> dict[str, Any]:
        """Return it for results.jsonl, with its last words where it failed."""
        found: dict[str, Any] = {"code": self.code, "seconds": round(self.seconds, 1)}
        return found if self.code in DONE else {**found, "said": self.said[-1200:]}


@dataclass(frozen=True)
class Proof:
    """What is to be proven, in which time, and where the results go.

    Attributes:
        epochs: of every run; None for each file's own.
        began: seconds since 1970 at which the time began to count.
    """

    device: str
    dataset: str
    epochs: int | None
    seeds: int
    trials: int
    seconds: float
    began: float
    out: Path

    @property
    def on_gpu(self) -> bool:
        """Whether it is proven on a GPU, real or pretended."""
        return self.device == "cuda"

    def some(self, networks: Sequence[Item]) -> Sequence[Item]:
        """Return all of them on a GPU, and one on a CPU, where the proof itself is tried and nothing is proven."""
        return networks if self.on_gpu else networks[:1]

    def passed(self) -> float:
        """Return the seconds that have passed."""
        return time.time() - self.began

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.seconds - self.passed()

    def say(self, text: str) -> None:
        """Print a line, and keep it."""
        line = f"[{self.passed():6.1f}] {text}"
        print(line, flush=True)
        with open(self.out / "log.txt", "a") as file:
            file.write(line + "\n")

    def keep(self, stage: str, **found: Any) -> None:
        """Write a result down, for good."""
        line = json.dumps({"stage": stage, "at": round(self.passed(), 1), **found}, default=str)
        with open(self.out / "results.jsonl", "a") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.say("== " + line[:900])

    def command(self, arguments: Sequence[str], limit: float, until: Callable[[], bool] | None = None) -> Ended:
        """Run Python, for `limit` seconds at most; kill it when they are over, or when `until` is true."""
        limit = min(limit, max(self.left() - 3, 5))
        began = time.time()
        log = self.out / f"{os.getpid()}-{time.monotonic_ns()}.txt"
        with open(log, "w") as output:
            child = _start(arguments, output)
            code = None
            while code is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = child.wait(0.005 if until else 0.2)
                if code is None and (time.time() - began > limit or (until and until())):
                    _kill_group(child)
            _kill_group(child)  # what it left behind
        return self._ended(arguments, child.wait(), time.time() - began, log)

    def stoppable(self, arguments: Sequence[str], limit: float) -> Ended:
        """Run Python, and when `limit` seconds are over ask it to stop: what is finished is kept."""
        began = time.time()
        log = self.out / f"{os.getpid()}-{time.monotonic_ns()}.txt"
        with open(log, "w") as output:
            child = _start(arguments, output)
            try:
                child.wait(max(min(limit, self.left() - 15), 5))
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(12)
            _kill_group(child)
        return self._ended(arguments, child.wait(), time.time() - began, log)

    def _ended(self, arguments: Sequence[str], code: int, seconds: float, log: Path) -> Ended:
        said = log.read_text(errors="replace")
        log.unlink()
        with open(self.out / "commands.txt", "a") as file:
            file.write(f"\n$ python {' '.join(arguments)}\n# exit {code}, {seconds:.1f} s\n{said[-20_000:]}\n")
        if code not in DONE:
            self.say(f"exit {code}: {' '.join(arguments)}\n{said[-2500:]}")
        return Ended(code, seconds, said)

    def harness(self, *arguments: str, limit: float, until: Callable[[], bool] | None = None) -> Ended:
        """Run a command of the harness."""
        return self.command(["-m", "harness", *arguments], limit, until)

    def options(self, dataset: str = "") -> list[str]:
        """Return the options that every command which trains is given."""
        epochs = [] if self.epochs is None else ["--epochs", str(self.epochs)]
        return ["--dataset", dataset or self.dataset, "--device", self.device, *epochs]

    def run(
        self, *arguments: str, limit: float, dataset: str = "", until: Callable[[], bool] | None = None
    ) -> tuple[Ended, list[Record]]:
        """Train, and return the new records as well."""
        before = journal_folder()
        ended = self.harness("run", *arguments, *self.options(dataset), limit=limit, until=until)
        return ended, read(journal_folder() - before)


def _start(arguments: Sequence[str], output: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def journal_folder() -> set[Path]:
    """Return the folders of all runs there are."""
    return {journal.folder for journal in all_journals()}


def read(folders: set[Path]) -> list[Record]:
    """Return the records in `folders`, in the order in which they started; of a run that never started, none."""
    found = [Journal(folder).read() for folder in sorted(folders)]
    return [record for record in found if record]


def journal_of(record: Record) -> Journal:
    """Return the journal that a record was read from."""
    return next(journal for journal in all_journals() if journal.run_id == record.run_id)


def told(record: Record) -> dict[str, Any]:
    """Return what results.jsonl says of a run."""
    ended = record.ended or {}
    return {
        "id": record.run_id,
        "state": record.state,
        "accuracy": ended.get("accuracy"),
        "epochs": len(record.epochs),
        "training_s": round(sum(epoch["seconds"] for epoch in record.epochs), 3),
        "last_epoch_s": round(record.epochs[-1]["seconds"], 4) if record.epochs else None,
        "wall_s": ended.get("wall_seconds"),
        "how": record.start.device,
    }


def compare(first: Record, second: Record) -> bool | str | dict[str, Any]:
    """Return whether two finished runs have the same weights to the bit, or how far they differ."""
    one, other = journal_of(first).weights(), journal_of(second).weights()
    if one.keys() != other.keys():
        return "they have other names"
    differing = [name for name in one if not torch.equal(one[name], other[name])]
    if not differing:
        return True
    most = max(float((one[name].double() - other[name].double()).abs().max()) for name in differing)
    return {"differ": len(differing), "of": len(one), "most": most}


def finished(records: Sequence[Record]) -> list[Record]:
    """Return those that ended in good order."""
    return [record for record in records if record.state == "finished"]


def same_weights(records: Sequence[Record]) -> bool | str | dict[str, Any]:
    """Compare two runs, if both were finished."""
    whole = finished(records)
    return compare(*whole) if len(whole) == 2 else "not both are finished"


def lines_of_json(text: str) -> list[dict[str, Any]]:
    """Return what a script printed as lines of JSON; other lines are left out."""
    found = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return [line for line in found if isinstance(line, dict)]


# --- stages -----------------------------------------------------------------------------------------------


def environment(proof: Proof) -> None:
    """What is there: packages, the GPU, the commit."""
    names = ("numpy", "scipy", "pandas", "seaborn", "sklearn", "mlflow", "optuna", "pebble", "triton")
    commit = PACKED / "commit"
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    proof.keep(
        "environment",
        python=platform.python_version(),
        torch=torch.__version__,
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(),
        cpus=os.cpu_count(),
        packages={name: _version(name) for name in names},
        gpu=_gpu(),
        commit=git.stdout.strip(),
        packed_at=commit.read_text().strip() if commit.exists() else "",
    )


def _version(name: str) -> str:
    try:
        return str(getattr(importlib.import_module(name), "__version__", "there"))
    except ImportError as error:
        return type(error).__name__


def _gpu() -> dict[str, Any] | None:
    if not torch.cuda.is_available():
        return None
    device = torch.cuda.get_device_properties(0)
    found = {"name": device.name, "processors": device.multi_processor_count, "GiB": device.total_memory >> 30}
    if shutil.which("nvidia-smi"):
        asked = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.mem", "--format=csv,noheader"]
        found["smi"] = subprocess.run(asked, capture_output=True, text=True, timeout=20).stdout.strip()
    return found


def gates(proof: Proof) -> None:
    """Does the audit let networks pass, and what arithmetic is chosen for them?"""
    asked = proof.some(
        [("s6_gap", 0), ("gap_dropout", 0), ("s6_gap", 1), ("depthwise_head", 0), ("p4m_convolution", 0)]
    )

    def ask(name: str, seed: int) -> Ended:
        arguments = [str(HERE / "gates.py"), architecture(name), str(seed), proof.device, proof.dataset]
        return proof.command(arguments, limit=90)

    with ThreadPoolExecutor(len(asked) if proof.on_gpu else 1) as pool:
        ended = list(pool.map(lambda one: ask(*one), asked))
    rows = [row for one in ended for row in lines_of_json(one.said) or [one.told]]
    proof.keep("gates", passed=sum("arithmetic" in row for row in rows), of=len(asked), rows=rows)


def digits(proof: Proof) -> None:
    """A run on the images that are always there."""
    ended, records = proof.run(architecture("s6_gap"), "--retrain", limit=70, dataset="digits")
    proof.keep("digits", **ended.told, runs=[told(record) for record in records])


def mnist(proof: Proof) -> None:
    """A run on the dataset of the proof."""
    ended, records = proof.run(architecture("s6_gap"), "--retrain", limit=90)
    proof.keep("mnist", **ended.told, runs=[told(record) for record in records])


def bits(proof: Proof) -> None:
    """The same seed twice, of a network without dropout and of one with: the same bits?"""
    for name in proof.some(("s6_gap", "gap_dropout")):
        ended, pair = [], []
        for _ in range(2):
            one, records = proof.run(architecture(name), "--retrain", limit=80)
            ended.append(one.code)
            pair += records[:1]
        losses = [[epoch["train_loss"] for epoch in record.epochs] for record in pair]
        proof.keep(
            "bits",
            network=name,
            code=ended,
            same=same_weights(pair),
            same_losses=len(losses) == 2 and losses[0] == losses[1],
            runs=[told(record) for record in pair],
        )


def resume(proof: Proof) -> None:
    """Kill a run in its midst and go on with it: the bits of one that was not killed?

    A network with dropout, and one whose weights are averaged.
    """
    networks = (("gap_dropout", []), ("depthwise_head", ["shifts=false", *_short_warm_up(proof)]))
    for name, settings in proof.some(networks):
        if proof.left() < 45:
            return
        command = [architecture(name), "--seed", "7", *(word for each in settings for word in ("--set", each))]
        before = journal_folder()
        stop = min(5, (proof.epochs or 19) - 1)

        def far_enough(before: set[Path] = before, stop: int = stop) -> bool:
            return any(len(record.epochs) >= stop for record in read(journal_folder() - before))

        _, cut = proof.run(*command, "--retrain", limit=80, until=far_enough)
        goes_on, _ = proof.run(*command, limit=80)
        resumed = read({journal_of(record).folder for record in cut})
        whole, others = proof.run(*command, "--retrain", limit=80)
        proof.keep(
            "resume",
            network=name,
            code=[goes_on.code, whole.code],
            killed_after=len(cut[0].epochs) if cut else None,
            went_on="resumes after epoch" in goes_on.said,
            same=same_weights([*resumed, *others]),
            runs=[told(record) for record in (*resumed, *others)],
        )


def _short_warm_up(proof: Proof) -> list[str]:
    """A proof of few epochs has none to warm up in."""
    return ["warmup_epochs=0"] if proof.epochs is not None and proof.epochs < 3 else []


def seeds(proof: Proof) -> None:
    """Many seeds at once: all finished, and those that were trained alone before with the same bits?"""
    name = "s6_gap"
    alone = {record.job.seed: record for record in finished(_runs_of(proof, name))}
    at_once = ["--jobs", str(proof.seeds)] if proof.on_gpu and proof.seeds > 1 else []
    ended, records = proof.run(architecture(name), "--seeds", str(proof.seeds), *at_once, "--retrain", limit=170)
    whole = finished(records)
    scores = [record.ended["accuracy"] for record in whole if record.ended]
    proof.keep(
        "seeds",
        **ended.told,
        finished=len(whole),
        of=proof.seeds,
        mean=mean(scores) if scores else None,
        same_as_alone=[compare(alone[r.job.seed], r) for r in whole if r.job.seed in alone],
        how=sorted({record.start.device for record in records}),
        first=told(records[0]) if records else None,
    )


def _runs_of(proof: Proof, name: str) -> list[Record]:
    return [r for r in read(journal_folder()) if r.job.name == name and r.job.dataset == proof.dataset]


def bench(proof: Proof) -> None:
    """Milliseconds of a step, of its parts, of many at once, and of what else was thought of: see bench.py."""
    for part in ("ceilings", "step", "nodes", "streams", "score", "augment", "compile", "grouped", "stacked"):
        if proof.left() < 25:
            return
        arguments = [str(HERE / "bench.py"), part, "--device", proof.device, "--dataset", proof.dataset]
        ended = proof.command(arguments, limit=75 if part == "compile" else 60)
        proof.keep(f"bench {part}", **ended.told, found=lines_of_json(ended.said))


def profile(proof: Proof) -> None:
    """Where the time of an epoch goes, as `run --profile` tells it."""
    ended, records = proof.run(architecture("s6_gap"), "--profile", limit=80)
    for record in records:
        trace = journal_of(record).folder / "profile.json.gz"
        if trace.exists() and trace.stat().st_size < MOST_BYTES:
            shutil.copy(trace, proof.out / trace.name)
    table = ended.said.partition("where the ")[2]
    proof.keep("profile", **ended.told, table=table[:3000])


def speed(proof: Proof) -> None:
    """The ratio to a plain loop, whose images 8 workers load, and none."""
    for workers, epochs in ((8, 3), (0, 2)) if proof.on_gpu else ((0, 1),):
        if proof.left() < 30:
            return
        timing = ["--workers", str(workers), "--epochs", str(epochs), "--json"]
        device = ["--dataset", proof.dataset, "--device", proof.device]
        ended = proof.harness("speed", architecture("s6_gap"), *device, *timing, limit=110)
        start, end = ended.said.find("{"), ended.said.rfind("}") + 1
        found: object = None
        with contextlib.suppress(ValueError):
            found = json.loads(ended.said[start:end])
        proof.keep("speed", **ended.told, workers=workers, found=found)


RECORDS = (
    ("depthwise_head 19,606", "depthwise_head", "shifts=false", 110),
    (
        "p4m_convolution 4,936",
        "p4m_convolution",
        "channels=2,2,4,4,4,4 filters=1 rotation=12.0 translate=0.12 scale=0.1 shear=0.1",
        170,
    ),
    ("depthwise_head 9,842", "depthwise_head", "channels=8,12,12,16,16,16", 120),
    (
        "p4m_convolution 1,869",
        "p4m_convolution",
        "channels=1,2,2,2,2,2 rotation=8.0 translate=0.085 scale=0.07 shear=0.07",
        150,
    ),
    ("p4m_convolution 997", "p4m_convolution", "", 150),
    (
        "depthwise_head 4,708",
        "depthwise_head",
        "channels=6,8,8,10,10,12 weight_decay=0.0002 rotation=8.0 translate=0.085 scale=0.07 shear=0.07",
        120,
    ),
)
"""The best of LEADERBOARD.md: title, file, settings, and the seconds that ten seeds may take."""

RECORDS_AT_ONCE = 3
"""Trained at the same time on a GPU, in a process each: audits and scoring keep about one core a process busy."""


def records(proof: Proof) -> None:
    """Ten seeds of each record, all seeds of one at once and some records at a time; exported as they are finished."""
    exported = time.time()
    with ThreadPoolExecutor(RECORDS_AT_ONCE if proof.on_gpu else 1) as pool:
        for trained in [pool.submit(_record, proof, *one) for one in proof.some(RECORDS)]:
            trained.result()
            if proof.left() > 12 and time.time() - exported > 25:
                export(proof)
                exported = time.time()
    if proof.left() > 12:
        export(proof)


def _record(proof: Proof, title: str, name: str, settings: str, limit: float) -> None:
    if proof.left() < 60:
        return
    count = min(10, proof.seeds)
    at_once = ["--jobs", str(count)] if proof.on_gpu and count > 1 else []
    given = [*settings.split(), *_short_warm_up(proof)]
    typed = [word for setting in given for word in ("--set", setting)]
    command = ["-m", "harness", "run", architecture(name), *typed, *proof.options(), "--seeds", str(count), *at_once]
    ended = proof.stoppable(command, limit)
    scores = [record.ended["accuracy"] for record in finished(_runs_with(proof, name, given)) if record.ended]
    average = mean(scores) if scores else None
    proof.keep("records", network=title, **ended.told, finished=len(scores), mean=average, scores=scores)


def _runs_with(proof: Proof, name: str, given: Sequence[str]) -> list[Record]:
    """Return the runs of a file by these settings, as they are typed."""
    epochs = [] if proof.epochs is None else [f"epochs={proof.epochs}"]
    knobs, recipe = options.parse_settings(plugins.load(architecture(name)), options.settings([*given, *epochs]))
    wanted = dict(knobs) | asdict(recipe)
    return [record for record in _runs_of(proof, name) if {**record.job.knobs, **asdict(record.job.recipe)} == wanted]


def tune(proof: Proof) -> None:
    """A study of many trials."""
    jobs = min(10, proof.trials) if proof.on_gpu else 1
    given = ["--dataset", proof.dataset, "--device", proof.device, "--epochs", str(proof.epochs or 19)]
    ended = proof.harness(
        "tune", "studies/s6_gap.py", "--trials", str(proof.trials), *given, "--jobs", str(jobs), limit=200
    )
    proof.keep("tune", **ended.told, trials=proof.trials, table=ended.said[-1500:])


def export(proof: Proof) -> None:
    """One file of all finished runs, for `leaderboard --import` and `sync` at home; and the events of all."""
    part = proof.out / "events.tgz.part"
    with tarfile.open(part, "w:gz") as tar:
        for folder in sorted(journal_folder()):
            tar.add(folder / "events.jsonl", arcname=f"{folder.name}/events.jsonl")
    part.replace(proof.out / "events.tgz")
    fresh = proof.out / "runs.zip.part"
    ended = proof.harness("leaderboard", "--dataset", proof.dataset, "--export", str(fresh), limit=60)
    runs = proof.out / "runs.zip"
    if fresh.exists() and fresh.stat().st_size < MOST_BYTES:
        fresh.replace(runs)
    proof.keep("export", **ended.told, bytes=runs.stat().st_size if runs.exists() else 0)


STAGES: dict[str, tuple[Callable[[Proof], None], float]] = {
    "environment": (environment, 5),
    "gates": (gates, 20),
    "digits": (digits, 15),
    "mnist": (mnist, 20),
    "bits": (bits, 40),
    "resume": (resume, 60),
    "seeds": (seeds, 45),
    "bench": (bench, 40),
    "profile": (profile, 25),
    "speed": (speed, 40),
    "export": (export, 10),
    "records": (records, 60),
    "tune": (tune, 60),
}
"""By name: the stage, and the least seconds that must be left for it to start."""


def main(arguments: Sequence[str]) -> None:
    """Go through the stages, whatever becomes of one."""
    parser = argparse.ArgumentParser(prog="proof.py", description=__doc__)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)} (default: all)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--epochs", type=int, help="of every run (default: each file's own)")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=540, help="in all (default: 540)")
    parser.add_argument(
        "--out", type=Path, default=Path(os.environ.get("OUT") or "proof"), help="default: $OUT, proof/"
    )
    given = vars(parser.parse_args(arguments))
    chosen = given.pop("stages") or [*STAGES]
    if unknown := [name for name in chosen if name not in STAGES]:
        parser.error(f"there is no stage {unknown[0]}; allowed: {', '.join(STAGES)}")
    proof = Proof(**given, began=float(os.environ.get("PROOF_BEGAN", time.time())))
    proof.out.mkdir(parents=True, exist_ok=True)
    for name in chosen:
        stage, least = STAGES[name]
        if proof.left() < least:
            proof.keep(name, skipped=f"{proof.left():.0f} s are left")
            continue
        proof.say(f"---- {name} ({proof.left():.0f} s are left)")
        try:
            stage(proof)
        except Exception:
            proof.keep(name, broke=traceback.format_exc()[-1500:])
    proof.say("done")


if __name__ == "__main__":
    main(sys.argv[1:])
