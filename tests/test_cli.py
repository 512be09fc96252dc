"""What people type, what they read, and the exit code."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fake_runs
import pytest
import torch
from preloaded import Preloaded, shared

from harness import cli, data, plugins, runs
from harness.backprop import COLUMNS, Problem
from harness.backprop.network import descend
from harness.cli import progress
from harness.errors import TrackerError, UsageError
from harness.events import Checkpoint, Epoch
from harness.journal import all_journals
from harness.spec import REFERENCE
from harness.tracking import Tracker, tracking_uri

pytestmark = pytest.mark.usefixtures("undrawn")

HEAVY = ("mlflow", "optuna", "pandas", "seaborn", "matplotlib", "torchvision", "sklearn", "scipy")


@pytest.fixture(scope="module")
def bare() -> Iterator[Preloaded]:
    """Return a process that has imported torch and nothing else, to be forked."""
    with contextlib.closing(Preloaded({**os.environ, "OMP_NUM_THREADS": "1"}, ["torch"])) as begun:
        yield begun


def loaded_by(begun: Preloaded, *arguments: str) -> set[str]:
    code = f"import sys\nfrom harness.cli import main\nmain({list(arguments)!r})\nprint('LOADED', *sys.modules)"
    printed, _ = begun.start(["-c", code], Path.cwd(), os.environ).communicate()
    assert "LOADED" in printed
    return set(printed.rpartition("LOADED")[2].split())


def run(*arguments: str) -> int:
    return cli.main(["run", "tiny.py", "--dataset", "digits", *arguments])


def nothing_recorded() -> bool:
    import mlflow

    return not all_journals() and not mlflow.MlflowClient(tracking_uri()).get_experiment_by_name("digits")


def test_help_imports_nothing_heavy() -> None:
    code = "import sys\nfrom harness.cli import main\nmain(['--help'])\nprint(*sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not set(printed.split()) & {*HEAVY, "torch", "numpy", "rich"}


def test_check_imports_nothing_heavy_but_torch(bare: Preloaded, workplace: Path) -> None:
    modules = loaded_by(bare, "check", "tiny.py")
    assert "torch" in modules
    assert not modules & set(HEAVY)


def test_training_modules_import_nothing_heavy(bare: Preloaded) -> None:
    packages = "cli.run", "cli.check", "runs", "leaderboard", "plots", "tracking", "workers", "workers.cluster"
    code = f"import sys\nimport {', '.join(f'harness.{name}' for name in packages)}\nprint(*sys.modules)"
    process = bare.start(["-c", code], Path.cwd(), os.environ)
    printed, _ = process.communicate()
    assert process.wait() == 0, printed
    assert not set(printed.split()) & set(HEAVY)


WITHOUT = """import sys
from importlib.machinery import PathFinder


class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {missing} else PathFinder.find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
"""


def without(begun: Preloaded, missing: Sequence[str], command: str) -> tuple[int, list[str]]:
    """Run a command where packages are missing; return the exit code and the lines that it printed."""
    code = f"{WITHOUT.format(missing=[*missing])}\nfrom harness.__main__ import run\nsys.exit(run())"
    process = begun.start(["-c", code, *command.split()], Path.cwd(), os.environ)
    printed, _ = process.communicate()
    return process.wait(), printed.splitlines()


@pytest.mark.parametrize(
    ("command", "missing", "package"),
    [
        ("run tiny.py --dataset digits", "sklearn", "scikit-learn"),
        ("run tiny.py --dataset digits --seeds 2", "scipy", "scipy"),
        ("tune study.py", "optuna", "optuna"),
        ("doctor", "optuna", "optuna"),
        ("speed tiny.py", "PIL", "pillow"),
    ],
)
def test_missing_package_is_named_before_training(
    bare: Preloaded, workplace: Path, command: str, missing: str, package: str
) -> None:
    code, lines = without(bare, [missing], command)
    assert code == UsageError.exit_code
    assert lines[-2:] == [f"error: {missing} is not installed here.", f"       pip install {package}"]
    assert not all_journals()


def test_training_needs_no_optional_packages(bare: Preloaded, workplace: Path) -> None:
    missing = [*{*HEAVY} - {"sklearn", "scipy"}, "jinja2"]
    code, lines = without(bare, missing, "run tiny.py --dataset digits --seeds 2")
    assert code == TrackerError.exit_code
    assert [line for line in lines if line.startswith("error")] == [
        "error: MLflow cannot be used: mlflow is not installed here."
    ]
    assert len(all_journals()) == 2


def test_local_training_imports_no_dask(bare: Preloaded, workplace: Path) -> None:
    assert not loaded_by(bare, "run", "tiny.py", "--dataset", "digits") & {"dask", "distributed"}


def test_cluster_without_dask_is_reported(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.delitem(sys.modules, "harness.workers.cluster", raising=False)
    assert run("--cluster", "local:2") == UsageError.exit_code
    assert "pip install 'harness[cluster]'" in capsys.readouterr().err


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert ended.value.code == 0
    assert f"harness {name}" in capsys.readouterr().out


def test_every_command_module_is_listed() -> None:
    modules = {path.stem for path in Path(cli.__file__).parent.glob("*.py")} - {
        "__init__",
        "console",
        "exit",
        "isolate",
        "options",
        "progress",
        "session",
    }
    assert modules == set(cli.COMMANDS)


def test_unknown_command_gets_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["rnu"]) == 2
    assert "Did you mean 'run'?" in capsys.readouterr().err


class TestRun:
    def test_reference_run_is_recorded_as_such(self, workplace: Path) -> None:
        assert run("--reference") == 0
        record = all_journals()[0].read()
        assert record
        assert record.start.mode == REFERENCE
        assert record.start.device.endswith(", float32")

    @pytest.mark.parametrize(
        ("ema", "said"), [("0.999", "96 % of the averaged weights that are scored are the initial ones"), ("0.9", "")]
    )
    def test_overlong_weight_average_is_reported(
        self, ema: str, said: str, workplace: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("--set", f"ema={ema}", "--set", "batch_size=64") == 0  # 2 epochs of 23 steps: 0.999 ** 46 = 0.9550
        printed = " ".join(capsys.readouterr().out.split())
        assert said in printed
        assert ("averaged weights" in printed) == bool(said)

    @pytest.mark.parametrize("slope", ["", ", nn.LeakyReLU(0.123)"])
    def test_what_counts_beside_the_layers_is_shown(
        self, slope: str, workplace: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = workplace / "tiny.py"
        file.write_text(file.read_text().replace("nn.Flatten()", f"nn.Flatten(){slope}"))
        assert run() == 0
        assert ("literal numbers in the code" in capsys.readouterr().out) == bool(slope)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_parallel_seeds_on_cpu_are_refused(self, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("--seeds", "2", "--jobs", "2") == 2
        assert "Seeds train at once on a GPU" in capsys.readouterr().err
        assert nothing_recorded()

    def test_profile_of_parallel_seeds_is_refused(
        self, workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(runs, "choose_device", lambda _: "cuda")
        assert run("--seeds", "2", "--jobs", "2", "--profile") == 2
        assert "A profile covers one run" in capsys.readouterr().err
        assert nothing_recorded()

    def test_interleaved_seeds_score_like_sequential_ones(
        self, workplace: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        architecture = plugins.load("tiny.py")
        jobs = runs.jobs(architecture, architecture.knobs, architecture.recipe, data.load("digits"), range(3), "cpu")
        tracker = Tracker()
        together = progress.train_all(jobs, tracker, at_once=2)
        printed = capsys.readouterr().out
        one_by_one = progress.train_all(jobs, tracker)
        tracker.close()
        assert together == one_by_one
        assert [printed.count(f"seed {seed}     epoch") for seed in range(3)] == [2, 2, 2]
        assert "n = 3" in printed

    def test_piped_output_is_plain_text(self, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run() == 0
        printed = capsys.readouterr().out
        for words in ("Linear", "epoch  1/2", "epoch  2/2", "at most 20,000", "fewer than 20", "score", "harness ui"):
            assert words in printed
        assert "picked on the test set" in printed
        assert "\x1b" not in printed

    def test_no_accuracy_target_is_claimed_for_digits(
        self, workplace: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run()
        assert "99.40" not in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("arguments", "code", "words"),
        [
            (["--set", "width=100"], 3, "the budget is 20,000"),
            (["--epochs", "25"], 3, "25 epochs; the budget is 19"),
            (["--set", "epochs=20"], 3, "20 epochs; the budget is 19"),
            (["--set", "widht=12"], 2, "Did you mean 'width'?"),
            (["--set", "width"], 2, "NAME=VALUE"),
            (["--set", "width=3", "--set", "width=4"], 2, "--set gives width twice"),
            (["--set", "dropout=nan"], 2, "dropout cannot be nan"),
            (["--set", "lr=1" + "0" * 400], 2, "is out of range"),
            (["--set", "warmup_epochs=1e999"], 2, "warmup_epochs inf is out of range"),
            (["--set", "epochs=" + "9" * 5_000], 2, "epochs must be int, not inf"),
            (["--seeds"], 2, "Argument --seeds: expected one argument."),
            (["--seeds", "1000000000"], 2, "Allowed: 1 to 1,000"),
            (["--device", "tpu"], 2, "invalid choice: 'tpu'"),
            (["--device", "mps"], 2, "Apple GPUs are not supported"),
            (["--set", "width=wide"], 2, "width must be int"),
            (["--set", "lr=-1"], 2, "lr -1 is out of range"),
            (["--set", "schedule=stpe"], 2, "Did you mean 'step'?"),
            (["--epochs", "2", "--set", "epochs=2"], 2, "same setting"),
            (["--seeds", "0"], 2, "--seeds 0 is out of range"),
            (["--dataset", "mnits"], 2, "Did you mean 'mnist'?"),
            (["--device", "cuda"], 2, "no CUDA device"),
        ],
    )
    def test_usage_error_is_short_and_records_nothing(
        self, workplace: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
    ) -> None:
        if "cuda" in arguments and torch.cuda.is_available():
            pytest.skip("there is a CUDA device here")
        assert run(*arguments) == code
        printed = capsys.readouterr().err
        assert words in printed
        assert "Traceback" not in printed
        assert len(printed.splitlines()) <= 4
        assert nothing_recorded()

    @pytest.mark.parametrize(
        ("text", "code", "words"),
        [
            (None, 2, "There is no file"),
            ("this is no Python", 2, "is not Python"),
            ('"""Doc."""\ndef build():\n    raise ValueError("no")\n', 2, "build raised ValueError: no (other.py:3)"),
            ('"""Doc."""\nimport torch\ndef build():\n    return torch.nn.Linear(2, 2)\n', 2, "forward raised"),
        ],
    )
    def test_invalid_architecture_is_refused(
        self, workplace: Path, capsys: pytest.CaptureFixture[str], text: str | None, code: int, words: str
    ) -> None:
        if text is not None:
            Path("other.py").write_text(text)
        assert cli.main(["run", "other.py", "--dataset", "digits"]) == code
        printed = capsys.readouterr().err
        assert words in printed
        assert "Traceback" not in printed
        assert nothing_recorded()

    def test_unused_setting_is_reported(self, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run("--set", "step_gamma=0.5")
        assert "step_gamma is set, but nothing in this recipe uses it" in capsys.readouterr().out

    def test_changed_settings_are_printed(self, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("--set", "width=5", "--set", "lr=0.2") == 0
        assert "with width=5 lr=0.2\n" in capsys.readouterr().out

    def test_seeds_end_with_mean_spread_and_interval(self, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("--seed", "3", "--seeds", "2") == 0
        printed = capsys.readouterr().out
        assert "n = 2" in printed
        assert "95 % interval" in printed
        assert sorted(journal.read().job.seed for journal in all_journals()) == [3, 4]  # type: ignore[union-attr]

    def test_seed_does_not_depend_on_earlier_seeds(self, workplace: Path) -> None:
        assert run("--seeds", "3") == 0
        assert run("--seed", "2", "--retrain") == 0
        among, alone = (journal for journal in all_journals() if "-s2-" in journal.run_id)
        assert all(torch.equal(among.weights()[name], tensor) for name, tensor in alone.weights().items())

    def test_repeated_command_trains_only_missing_seeds(
        self, workplace: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("--seeds", "2") == 0
        capsys.readouterr()
        assert run("--seeds", "3") == 0
        printed = capsys.readouterr().out
        assert printed.count("was trained before") == 2
        assert "n = 3" in printed
        assert sorted(journal.run_id.split("-")[3] for journal in all_journals()) == ["s0", "s1", "s2"]

    def test_run_of_another_name_or_author_is_said_to_be_theirs(
        self, workplace: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("--author", "Anna") == 0
        (journal,) = all_journals()
        assert run("--author", "Anna") == 0
        assert "was trained before, " in capsys.readouterr().out
        Path("berta.py").write_text(Path("tiny.py").read_text())
        assert cli.main(["run", "berta.py", "--dataset", "digits", "--author", "Berta"]) == 0
        said = f"was trained before: the same network as tiny, trained by Anna ({journal.run_id})"
        assert said in " ".join(capsys.readouterr().out.split())

    @pytest.fixture
    def interrupted(self, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        """Return the id of a run of three epochs that was stopped after its first."""
        train = runs.train

        def stop(*job: Any, **how: Any) -> Iterator[runs.Event | Checkpoint | None]:
            for event in train(*job, **how):
                yield event
                if isinstance(event, Epoch):
                    raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(sys.modules["harness.runs.record"], "train", stop)
            assert run("--epochs", "3") == 130
        (journal,) = all_journals()
        return journal.run_id

    def test_resume_continues_the_named_run(self, interrupted: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["run", "--resume", interrupted]) == 0
        assert "resumes after epoch 1" in capsys.readouterr().out
        (journal,) = all_journals()
        record = journal.read()
        assert record
        assert record.state == "finished"
        assert [epoch["number"] for epoch in record.epochs] == [1, 2, 3]
        assert cli.main(["run", "--resume", interrupted]) == 2
        assert "is finished" in capsys.readouterr().err

    def test_resume_refuses_another_version(
        self, interrupted: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("harness.runs.environment.__version__", "0.0.0")
        assert cli.main(["run", "--resume", interrupted]) == 2
        said = capsys.readouterr().err
        assert "harness: " in said
        assert "0.0.0 now" in said
        assert "recipe" not in said
        assert "run tiny.py --dataset digits --set epochs=3 --seed 0 --retrain" in said
        assert len(all_journals()) == 1

    def test_run_resumes_with_the_network_that_it_began_with(self, interrupted: str) -> None:
        Path("tiny.py").write_text("no longer a network")
        assert cli.main(["run", "--resume", interrupted]) == 0

    def test_refused_resume_names_the_reference_mode(
        self, interrupted: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        events = Path("mlruns/journal", interrupted, "events.jsonl")
        events.write_text(events.read_text().replace('"plain": false', '"plain": true'))
        monkeypatch.setattr("harness.runs.environment.__version__", "0.0.0")
        assert cli.main(["run", "--resume", interrupted]) == 2
        assert "--seed 0 --reference --retrain" in capsys.readouterr().err

    def test_version_change_retrains_interrupted_run(self, interrupted: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("harness.runs.environment.__version__", "0.0.0")
        assert run("--epochs", "3") == 0
        states = {record.state for journal in all_journals() if (record := journal.read())}
        assert states == {"interrupted", "finished"}

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [(["--resume", "nothing"], "no run 'nothing'"), ([], "No FILE"), (["tiny.py", "--resume", "x"], "Leave")],
    )
    def test_resume_accepts_only_a_run_id(
        self, workplace: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
    ) -> None:
        assert cli.main(["run", *arguments]) == 2
        assert message in capsys.readouterr().err

    def test_auto_falls_back_to_digits_with_notice(
        self, workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import torchvision

        class NoInternet:
            def __init__(self, *_: object, **__: object) -> None:
                raise OSError("no route to host")

        monkeypatch.setenv("HARNESS_DATA", str(workplace / "empty"))
        monkeypatch.setattr(torchvision.datasets, "MNIST", NoInternet)
        assert cli.main(["run", "tiny.py"]) == 0
        assert "Training on digits instead" in capsys.readouterr().out
        assert cli.main(["run", "tiny.py", "--dataset", "mnist"]) == 5


class TestCheck:
    def test_missing_device_is_refused_before_audit(
        self, workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert cli.main(["check", "tiny.py", "--device", "cuda"]) == 2
        printed = capsys.readouterr()
        assert "no CUDA device" in printed.err
        assert "Linear" not in printed.out

    def test_check_prints_summary_and_count(self, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["check", "tiny.py"]) == 0
        printed = capsys.readouterr().out
        for words in ("BatchNorm1d", "598 parameters of 20,000", "batch norm", "multiply-adds", "receptive field"):
            assert words in printed
        assert nothing_recorded()

    def test_check_prints_no_weight_average_warning(self, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["check", "tiny.py", "--device", "cpu", "--set", "ema=0.999"]) == 0
        printed = capsys.readouterr().out
        assert "trains on" in printed
        assert "untrained" not in printed

    def test_device_failure_is_reported_briefly(
        self, workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def breaks_down(*_: object) -> Iterator[runs.Event]:
            raise RuntimeError("out of chalk")
            yield

        monkeypatch.setattr(runs, "train", breaks_down)
        assert cli.main(["check", "tiny.py", "--device", "cpu"]) == 8
        assert "crashed: RuntimeError: out of chalk" in capsys.readouterr().err

    def test_check_says_what_a_batch_must_be(self, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
        ghost = str(Path(__file__).parent / "valid_architectures" / "ghost_batch_norm.py")
        assert cli.main(["check", ghost, "--device", "cpu"]) == 0
        printed = " ".join(capsys.readouterr().out.split())
        assert "in training a batch must split into 2 equal parts of at least 2 images" in printed
        assert "no batch_size works" in printed  # digits has an odd number of images
        assert cli.main(["check", ghost, "--set", "splits=3"]) == 4
        assert "Set batch_size to 129." in " ".join(capsys.readouterr().err.split())

    def test_refusal_prints_nothing_else(self, workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
        bad = Path(__file__).parent / "bad_architectures" / "branch_on_a_value.py"
        assert cli.main(["check", str(bad)]) == 4
        printed = capfd.readouterr()
        assert printed.out == ""
        assert len(printed.err.splitlines()) == 3


def test_repeated_file_counts_twice(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ends = iter([(8, True), (0, True)])
    monkeypatch.setattr("harness.cli.isolate._one", lambda *_: next(ends))
    assert cli.main(["check", "tiny.py", "tiny.py"]) == 8
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines() if line] == ["tiny.py", "tiny.py"]


@pytest.mark.parametrize("hang_timeout", ["0", "-1", "nan", "soon"])
def test_invalid_hang_timeout_is_refused(hang_timeout: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "tiny.py", f"--hang-timeout={hang_timeout}"]) == 2
    assert "--hang-timeout" in capsys.readouterr().err


class TestNew:
    def test_new_file_passes_check(self, workplace: Path) -> None:
        assert cli.main(["new", "mine"]) == 0
        assert cli.main(["check", "architectures/mine.py"]) == 0

    def test_new_never_overwrites(self, workplace: Path) -> None:
        assert cli.main(["new", "mine"]) == 0
        Path("architectures/mine.py").write_text("precious")
        assert cli.main(["new", "mine"]) == 2
        assert Path("architectures/mine.py").read_text() == "precious"

    @pytest.mark.parametrize("name", ["2fast", "../up", "a b", ""])
    def test_invalid_name_is_refused(self, workplace: Path, name: str) -> None:
        assert cli.main(["new", name]) == 2


def test_list_shows_datasets_architectures_and_fields(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["new", "mine"])
    (workplace / "architectures" / "broken.py").write_text("(")
    assert cli.main(["list"]) == 0
    printed = capsys.readouterr().out
    for words in (
        "digits",
        "architectures/mine.py",
        "has no docstring",
        "label_smoothing",
        "augment_fade",
    ):
        assert words in printed


@pytest.mark.parametrize("port", ["0", "65536", "-1"])
def test_invalid_port_is_refused(workplace: Path, port: str) -> None:
    assert cli.main(["ui", f"--port={port}"]) == 2


def test_ui_serves_localhost_until_ctrl_c(workplace: Path) -> None:
    command = [sys.executable, "-m", "harness", "ui", "--port", "5173"]
    ui = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert ui.stdout is not None
    assert "starting" in ui.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:(\d+)", ui.stdout.readline())
    assert found is not None
    with urllib.request.urlopen(found[0], timeout=60) as page:
        assert b"MLflow" in page.read()
    ui.send_signal(signal.SIGINT)
    assert ui.wait(timeout=60) == 0
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(found[0], timeout=5)


ODD = "[odd] {name}'s.py"
MARKED_UP = '''"""[bold]No[/italic] mark-up :smile:."""
from torch import nn


def build():
    layers = nn.Sequential(nn.AdaptiveAvgPool2d(7), nn.Flatten())
    layers.add_module("head", nn.Linear(49, 10))
    return layers
'''


@pytest.mark.parametrize("command", [["check", ODD], ["run", ODD, "--dataset", "digits", "--epochs", "1"]])
def test_plug_in_text_is_printed_without_markup(
    workplace: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    Path(ODD).write_text(MARKED_UP)
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    for words in ("[odd] {name}'s", "[bold]No[/italic] mark-up :smile:."):
        assert words in printed


def test_windows_file_is_recorded_unchanged(workplace: Path) -> None:
    text = (workplace / "tiny.py").read_bytes().replace(b"\n", b"\r\n")
    (workplace / "tiny.py").write_bytes(text)
    assert run() == 0
    (journal,) = all_journals()
    assert (journal.folder / "architecture.py").read_bytes() == text
    (copy,) = (workplace / "mlruns" / "artifacts").rglob("tiny.py")
    assert copy.read_bytes() == text


@pytest.mark.skipif(sys.platform == "win32", reason="pipes and streams of a Unix shell")
class TestStreams:
    def shell(self, line: str) -> subprocess.CompletedProcess[str]:
        line = line.replace("harness", f"'{sys.executable}' -m harness")
        buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        return subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=buffered)

    def test_closed_pipe_is_no_error(self, workplace: Path) -> None:
        assert self.shell("harness --help | head -1; echo ${PIPESTATUS[0]}").stdout.split()[-1] == "0"

    def test_run_continues_after_pipe_closes(self, workplace: Path) -> None:
        process = shared().start(["-m", "harness", "run", "tiny.py", "--dataset", "digits"], workplace, os.environ)
        process.stdout.readline()
        process.stdout.close()
        assert process.wait() == 0
        (journal,) = all_journals()
        record = journal.read()
        assert record is not None
        assert record.state == "finished"

    def test_full_streams_do_not_change_exit_code(self, workplace: Path) -> None:
        assert self.shell("harness nonsense 2>/dev/full").returncode == 2

    def test_closed_streams_are_no_error(self, workplace: Path) -> None:
        assert self.shell("harness --help >&- 2>&-").returncode == 0

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
    def test_full_disk_is_named(self, workplace: Path) -> None:
        done = self.shell("harness --help > /dev/full")
        assert done.returncode == 2
        assert done.stderr == "error: No space left on device: standard output.\n"


@pytest.mark.parametrize("name", ["class", "2nd", "my-net", ""])
def test_name_that_is_no_identifier_is_refused(workplace: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert cli.main(["new", name]) == 2
    assert "cannot be the name" in capsys.readouterr().err
    assert not Path("architectures").exists()


def test_unwritable_folder_is_named(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("architectures").write_text("a file where a folder should be")
    assert cli.main(["new", "net"]) == 2
    assert "architectures" in capsys.readouterr().err


class TestBackprop:
    def test_backprop_prints_loss_steps_and_state(self, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["backprop"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[2].split() == ["0.1", "0.242519857", "0.133510607", "not", "reached", "stable"]
        assert lines[7].split() == ["2", "0.242519857", "0.005160109", "8", "stable"]
        assert "fastest stable rate (lowest loss at the last step): 2" in lines

    def test_table_prints_requested_steps(self, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["backprop", "--lr", "0.5", "--steps", "1", "--table", "0", "1"]) == 0
        rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line.strip()}
        for column in COLUMNS:
            assert len(rows[column]) == 2
        assert rows["w5"] == ["0.4", f"{descend(Problem(), 0.5, 1).rows[1]['w5']:.12g}"]

    def test_csv_is_written(self, workplace: Path) -> None:
        assert cli.main(["backprop", "--lr", "0.5,1.0", "--steps", "3", "--csv", "steps.csv"]) == 0
        lines = (workplace / "steps.csv").read_text().splitlines()
        assert lines[0].startswith("lr,step,w1,w2")
        assert len(lines) == 1 + 2 * 4

    def test_backprop_needs_neither_torchvision_nor_sklearn(self, bare: Preloaded, workplace: Path) -> None:
        assert not loaded_by(bare, "backprop", "--steps", "2") & {"torchvision", "sklearn", "optuna"}

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--lr", "0"], "learning rate 0.0 cannot be used"),
            (["--lr=-1"], "learning rate -1.0 cannot be used"),
            (["--lr", "nan"], "learning rate nan cannot be used"),
            (["--lr", "fast"], "not a list of numbers"),
            (["--lr", "0.1,0.1"], "given twice"),
            (["--weights", "1,2,3"], "weights has 3 numbers; the network needs 8"),
            (["--inputs", "1"], "inputs has 1 numbers; the network needs 2"),
            (["--targets", "0.5,inf"], "targets cannot hold inf"),
            (["--steps", "0"], "0 steps cannot be trained"),
            (["--table", "101"], "There is no step 101"),
            (["--csv", "missing/steps.csv"], "'missing/steps.csv' cannot be written"),
            (["--csv", ""], "'' cannot be written"),
            (["--weights", "-1,2"], "joined by ="),
            (["--loss", "nan"], "--loss nan cannot be reached"),
            (["--loss", "0"], "--loss 0.0 cannot be reached"),
            (["--steps", "10001"], "10001 steps cannot be trained"),
            (["--steps", "many"], "Argument --steps: invalid int value: 'many'."),
        ],
    )
    def test_usage_error_is_short_with_exit_2(
        self, workplace: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
    ) -> None:
        assert cli.main(["backprop", *arguments]) == 2
        printed = capsys.readouterr().err
        assert words in printed
        assert len(printed.splitlines()) <= 3


class TestLeaderboard:
    def board(self, *arguments: str) -> int:
        return cli.main(["leaderboard", *arguments])

    def test_leaderboard_prints_ranking_and_exclusions(
        self, workplace: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name, errors in (("good", 30), ("bad", 130)):
            for seed in range(4):
                fake_runs.finished(name, seed, errors + seed)
        fake_runs.finished("good", 5, end="diverged")
        assert self.board() == 0
        printed = capsys.readouterr().out
        for words in ("Ranking", "Who is better", "better", "1 left out: diverged", "What each is made of"):
            assert words in printed
        assert self.board("--compare", "bad", "1") == 0
        assert "worse" in capsys.readouterr().out

    def test_nothing_to_rank_is_explained_briefly(self, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.board() == 2
        assert "There is no finished run to rank" in capsys.readouterr().err
        fake_runs.finished("net", 0, job={"protocol": 0})
        assert self.board() == 2
        printed = capsys.readouterr().err
        assert "protocol 0; the rules are now" in printed
        assert len(printed.splitlines()) <= 3

    def test_exported_runs_import_as_the_same_row(
        self, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(["run", "tiny.py", "--dataset", "digits", "--seeds", "3"]) == 0
        capsys.readouterr()
        assert self.board("--csv") == 0
        (here,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
        assert self.board("--export", "runs.zip") == 0
        assert "3 runs written to runs.zip" in capsys.readouterr().err
        (workplace / "elsewhere").mkdir()
        monkeypatch.chdir(workplace / "elsewhere")
        assert self.board("--import", "../runs.zip", "--csv") == 0
        printed = capsys.readouterr()
        assert "3 runs imported" in printed.err
        (there,) = csv.DictReader(io.StringIO(printed.out))
        assert there == {**here, "imported": "3"}
        assert self.board("--import", "../runs.zip") == 0
        assert "3 were here already" in capsys.readouterr().err

    def test_corrupted_export_is_refused(self, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (workplace / "runs.zip").write_bytes(b"no zip")
        assert self.board("--import", "runs.zip") == 5
        assert "damaged, or is not an export" in capsys.readouterr().err

    def test_html_page_is_written_or_refused(
        self, drawn: None, workplace: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        fake_runs.finished("net", 0)
        assert self.board("--html", "board.html") == 0
        assert (workplace / "board.html").read_text().lstrip().startswith("<!doctype html>")
        assert self.board("--html", "no/such/folder/board.html") == 2
        assert "cannot be written" in capsys.readouterr().err

    def test_row_is_not_compared_with_itself(self, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for seed in range(3):
            fake_runs.finished("net", seed)
        assert self.board("--compare", "net", "1") == 2
        assert "Both names mean net" in capsys.readouterr().err
