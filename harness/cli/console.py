"""The console, and tables and lines that several commands print."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from harness.audit import Ledger, ModelSummary
from harness.errors import DataError, printable
from harness.journal import Imported
from harness.training import Target


class _Console(Console):
    """A console that prints text literally: nothing in a plug-in or file name is interpreted as markup."""

    def __init__(self) -> None:
        wide = None if sys.stdout.isatty() else 140
        super().__init__(highlight=False, markup=False, emoji=False, soft_wrap=True, width=wide)

    def on_broken_pipe(self) -> None:
        """Discard further output if the reader is gone, as with `| head`, and let the training continue."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


console = _Console()
"""The console of all commands: colours on a terminal only, plain lines in a pipe."""


def new_table(*columns: str, right: Sequence[str] = ()) -> Table:
    """Return an empty table; the columns named in `right` are right-aligned."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def print_wide(shown: Table) -> None:
    """Print a table at its full width: a narrower terminal wraps whole lines, not cells."""
    needed = Measurement.get(console, console.options.update(max_width=1_000), shown).maximum
    before, console.width = console.width, max(console.width, needed)
    console.print(shown)
    console.width = before


def print_layers(model: ModelSummary) -> None:
    """Print the layer table."""
    rows = new_table("layer", "kind", "output shape", "parameters", right=("parameters",))
    for layer in model.layers:
        rows.add_row(layer.name, layer.kind, layer.output, f"{layer.parameters:,}")
    console.print(rows)


def print_ledger(found: Ledger) -> None:
    """Print the stored numbers by kind, and each counted tensor that the layer table does not show."""
    kinds: dict[tuple[str, bool], int] = {}
    for entry in found.entries:
        kinds[entry.kind, entry.counted] = kinds.get((entry.kind, entry.counted), 0) + entry.numbers
    for (kind, counted), numbers in kinds.items():
        console.print(f"  {numbers:>9,}  {kind}s{'' if counted else ' (not counted)'}")
    for entry in found.entries:
        if entry.counted and entry.kind not in ("parameter", "frozen parameter"):
            console.print(f"             {entry.kind} {entry.name} at {entry.layer}: {entry.numbers:,}")


def print_model(found: ModelSummary) -> None:
    """Print which parts a network uses, its receptive field and its multiply-adds."""
    for part, used in found.uses.items():
        console.print(f"  {part:<24}{'yes' if used else 'no'}")
    console.print(
        f"  {'receptive field':<24}{found.receptive_field} x {found.receptive_field} pixels (a unit of the last map)"
    )
    console.print(f"  {'multiply-adds':<24}{found.multiply_adds:,} an image")


def warn_of_softmax(found: ModelSummary) -> None:
    """Print a note if a network returns probabilities, which trains slowly and badly."""
    if found.ends_in_softmax:
        console.print(
            "note: the network ends in a softmax, and the loss applies another one; return logits or log_softmax",
            style="yellow",
        )


def print_targets(found: Sequence[Target]) -> None:
    """Print each target, the reached value and whether it meets the target."""
    rows = new_table("target", "reached", "limit", "", right=("reached",))
    for target in found:
        rows.add_row(
            target.name,
            target.reached,
            target.limit,
            Text("met", "green") if target.met else Text("missed", "bold red"),
        )
    console.print(rows)


def duration(seconds: float) -> str:
    """Return minutes and seconds, such as ``4:07``."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def report_imports(bring: Callable[[], Sequence[Imported]], origin: str) -> int:
    """Import runs, print to standard error which were imported and which were refused, and return the exit code."""
    with Console(stderr=True).status(escape(f"checking the runs of {origin}, and counting their networks")):
        found = bring()
    refused = [run for run in found if run.refused]
    added = sum(run.is_new and not run.refused for run in found)
    known = len(found) - added - len(refused)
    already = f", {known} were here already" if known else ""
    lines = [f"{added} run{'' if added == 1 else 's'} imported from {origin}{already}"]
    lines += [f"refused: {run.run_id}: {printable(run.refused)}" for run in refused]
    print(*lines, sep="\n", file=sys.stderr, flush=True)
    return DataError.exit_code if refused else 0
