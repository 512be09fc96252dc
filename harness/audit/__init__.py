"""The audit: count every number a network stores, and refuse networks whose count or score could not be trusted.

The challenge limits a network to 20,000 stored numbers. A plug-in is arbitrary Python, so counting
``network.parameters()`` is not enough: a file could keep weights in buffers, plain tensors, Python lists, literals in
`forward`, or a second network behind an ``if``. The audit therefore does not read the Python code. It counts what the
exported graphs of the network hold, which a confined process handed over as data (`harness.submission`). Only these
graphs are trained and scored. A number that was not counted cannot affect the score.

There are two graphs, because a network may compute differently in its two modes: one is exported in training mode and
trained, the other in evaluation mode and scored. Both use the same parameters and buffers, so training the one moves
the other. Their batch size is dynamic: no branch on the number of images can select another computation. A training
graph may refuse some numbers of images, and then they are not trained.

The ledger counts, in 32-bit units: parameters (also frozen ones), buffers, constant tensors held by a graph, and
numbers written into `forward`. Some are free, because they hold no knowledge of digits. All of these are bounded, so
that they cannot hide any:

- running statistics of batch norm, if it normalises what depends on the images: up to 4,000, a fifth of the budget;
- tables of whole numbers, and masks of zeros and infinities or of true and false: up to 1,024 bits in all;
- settings such as eps, momentum, dropout's p and the order of a norm: up to 10 different values;
- whole numbers that choose among values which neither images nor weights decide (`fixed`): up to 10 different ones;
- shapes, strides, indices and the numbers -1, 0 and 1: bounded through the number of operators, at most 2,000.

`audit` (in `network`) runs the checks on the CPU, in this order, and raises at the first violation:

1. `forward`: the network returns (N, 10) finite float32 logits in both modes, and what it trains is registered.
2. `export`: both graphs, with torch's own operators only; `adapt` and `nested` make some modules exportable. At
   evaluation the graph draws no random numbers and changes no state.
3. `count`: the ledger, an `Entry` for each tensor and for each line with numbers (`literals`). What is free is found by
   `norm_statistics`, `tables` and `fixed`.
4. `network`: on the same images, the graphs give the network's outputs, gradients and updated buffers.
5. `batch`: each prediction depends on its own image alone. The same images are evaluated in other batches, also with
   all parameters moved away from their initial values. Callers repeat this after training.

`sizes` says which numbers of images a batch of the training graph may have, as ghost batch norm splits it.

`state` and `mailbox` check what a training step moves: batch norm's and spectral norm's state, and parameters by the
gradient of what the network computes.

`enforce` compares the ledger and the recipe with the budget. One audit serves all seeds: a seed only replaces the
values of the tensors. While a network trains, `state` checks that it still has the tensors that were counted. `probe`
has what the checks share: synthetic images, one training step, a comparison of two results. `graph` reads operators,
arguments, layers and line numbers from a graph. `module` checks the plug-in's own module, in the confined process, so
that an author reads at once what could not be handed over.

An `Audit` is then used for

- its ``ledger``, for the budget and the board;
- its ``graphs()``, with the tensors of a newly started network, on the device that trains;
- `describe` (in `summary`): the layer table, receptive field and multiply-adds, read from the same graphs;
- pickling: one process audits, another trains.
"""

from harness.audit.batch import refuse_batch_dependence, refuse_changed_classes
from harness.audit.compact import as_bytes, compressed, rank
from harness.audit.count import Entry, Ledger, own_units
from harness.audit.export import export, refuse_foreign_operators
from harness.audit.forward import probe_forward
from harness.audit.graph import arguments, cause, every_tensor, operators, over_the_same_tensors, short_name
from harness.audit.growth import refuse_grown_state, sizes_of
from harness.audit.literals import written_units
from harness.audit.module import refuse_odd_module
from harness.audit.network import (
    Audit,
    Exporter,
    Graphs,
    audit,
    enforce,
    refuse_unfaithful,
)
from harness.audit.probe import calls_digest, one_step
from harness.audit.sizes import (
    MOST_SHOWN,
    accepted_sizes,
    condition,
    refuse_uneven_batches,
    step_size,
    suitable_batch_size,
)
from harness.audit.state import refuse_storage
from harness.audit.summary import Layer, ModelSummary, describe
from harness.audit.tables import FREE_BITS, bits_of_table

__all__ = [
    "FREE_BITS",
    "MOST_SHOWN",
    "Audit",
    "Entry",
    "Exporter",
    "Graphs",
    "Layer",
    "Ledger",
    "ModelSummary",
    "accepted_sizes",
    "arguments",
    "as_bytes",
    "audit",
    "bits_of_table",
    "calls_digest",
    "cause",
    "compressed",
    "condition",
    "describe",
    "enforce",
    "every_tensor",
    "export",
    "one_step",
    "operators",
    "over_the_same_tensors",
    "own_units",
    "probe_forward",
    "rank",
    "refuse_batch_dependence",
    "refuse_changed_classes",
    "refuse_foreign_operators",
    "refuse_grown_state",
    "refuse_odd_module",
    "refuse_storage",
    "refuse_uneven_batches",
    "refuse_unfaithful",
    "short_name",
    "sizes_of",
    "step_size",
    "suitable_batch_size",
    "written_units",
]
