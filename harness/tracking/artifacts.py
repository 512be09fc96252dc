"""The artifacts of a run, a study and a sweep: sources, tables, figures, the scored network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from harness import journal as journals
from harness import plots
from harness.backprop import Problem, Trajectory, write_csv
from harness.events import StudyRecord
from harness.journal import Journal, Record, archive
from harness.spec import BUDGET
from harness.submission import Submission, network_of
from harness.training import confusion


def write_run(folder: Path, journal: Journal, record: Record) -> None:
    """Write the artifacts of a run that has ended: plug-in, network, ledger, journal, figures and predictions."""
    start, epochs = record.start, record.typed_epochs()
    (folder / f"{journals.safe_name(start.job.name)}.py").write_bytes(journal.source.encode())
    (folder / "ledger.json").write_text(json.dumps(record.started["ledger"], indent=1), encoding="utf-8")
    (folder / "journal.jsonl").write_bytes(journal.events_file.read_bytes())
    for name, content in archive.optional_files(journal.folder).items():
        (folder / name).write_bytes(content)
    if (journal.folder / journals.PROFILE).exists():
        shutil.copy(journal.folder / journals.PROFILE, folder)
    figures = folder / "figures"
    figures.mkdir()
    if epochs:
        target = BUDGET.accuracy if start.is_benchmark else None
        plots.learning_curves(epochs, start.name, target).savefig(figures / "learning_curves.png")
    if record.state == "finished":
        shutil.copy(journal.folder / journals.OUTCOME, folder)
        outcome = journal.outcome()
        counts = confusion(outcome.answers, outcome.labels)
        plots.confusion_matrix(counts, start.name).savefig(figures / "confusion.png")
        plots.hardest_images(outcome).savefig(figures / "most_confidently_wrong.png")


def write_study(folder: Path, record: StudyRecord) -> None:
    """Write the artifacts of a finished study: figures and trials."""
    title = f"{record.search['study']} on {record.search['dataset']}"
    for name, figure in plots.study(record.trials, record.importances, title).items():
        figure.savefig(folder / f"{name}.png")
    (folder / "trials.json").write_text(json.dumps([asdict(trial) for trial in record.trials]), encoding="utf-8")


def write_sweep(folder: Path, problem: Problem, trajectories: Sequence[Trajectory]) -> None:
    """Write the artifacts of a sweep: figures and a table of all steps."""
    title = f"2-2-2 network, targets {problem.targets[0]:g} and {problem.targets[1]:g}"
    plots.sweep_losses(trajectories, title).savefig(folder / "loss.png")
    plots.sweep_weights(trajectories, title).savefig(folder / "weights.png")
    with open(folder / "steps.csv", "w", newline="", encoding="utf-8") as file:
        write_csv(file, trajectories)


def write_model(folder: Path, journal: Journal) -> None:
    """Save the scored network, rebuilt from its record, as an exported graph."""
    import mlflow.pytorch
    from mlflow.models import infer_signature

    network = network_of(Submission(journal.submission))
    weights = journal.weights()
    network.eval()
    images = torch.zeros(2, 1, 28, 28)  # two, as one would fix the batch size at 1
    with torch.no_grad():
        for name, tensor in (*network.named_parameters(), *network.named_buffers()):
            tensor.copy_(weights[name])  # load_state_dict would skip non-persistent buffers
        answers = network(images)
    mlflow.pytorch.save_model(
        network,
        str(folder),
        signature=infer_signature(images.numpy(), answers.numpy()),
        input_example=images.numpy(),
        pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}", f"numpy=={np.__version__}"],
        serialization_format="pt2",
    )
