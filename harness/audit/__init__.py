"""The audit: count every number a network stores, and refuse networks whose count or score could not be trusted.

The challenge limits a network to 20,000 stored numbers. A plug-in is arbitrary Python, so counting
``network.parameters()`` is not enough: a file could keep weights in buffers, plain tensors, Python lists, literals in
`forward`, or a second network behind an ``if``. The audit therefore does not read the Python code. It exports the
network with `torch.export` and counts what the exported graphs hold. Only these graphs are trained and scored
afterwards, and none of the plug-in's Python runs any more. A number that was not counted cannot affect the score.

There are two graphs, because a network may compute differently in its two modes: one is exported in training mode and
trained, the other in evaluation mode and scored. Both use the same parameters and buffers, so training the one moves
the other. Their batch size is dynamic: no branch on the number of images can select another computation.

The ledger counts, in 32-bit units: parameters (also frozen ones), buffers, constant tensors held by a graph, and
numbers written into `forward`. Some are free, because they hold no knowledge of digits. All of these are bounded, so
that they cannot hide any:

- running statistics of batch norm: they follow from the data; up to 4,000, a fifth of the budget;
- tables of whole numbers, and masks of zeros and infinities or of true and false: up to 1,024 bits in all;
- settings such as eps, momentum, dropout's p and the order of a norm: up to 10 different values;
- shapes, strides, indices and the numbers -1, 0 and 1: bounded through the number of operators, at most 2,000.

`audit` (in `network`) runs the checks on the CPU, in this order, and raises at the first violation:

1. `module`: tensors are plain, no weight shares memory with another tensor, no method of nn.Module is overridden.
2. `forward`: the plug-in's own `forward` returns (N, 10) finite float32 logits in both modes and creates no parameter,
   and every trainable tensor that it uses is registered.
3. `export`: both graphs, with torch's own operators only. At evaluation the graph draws no random numbers and changes
   no state. `adapt` helps torch.export over what it cannot follow, such as an override of ``train()``, and `nested`
   writes blocks of no_grad and autocast in line. `state`: in training only batch norm's statistics and spectral norm's
   vectors move; no tensor changes its memory, and none is read before it is written.
4. `count`: the ledger, an `Entry` for each tensor and for each line with numbers.
5. `network`: on the same images, the graphs give the network's outputs, gradients and updated buffers.
6. `batch`: each prediction depends on its own image alone. The same images are evaluated in other batches, also with
   all parameters moved away from their initial values. Callers repeat this after training.

`enforce` compares the ledger and the recipe with the budget. One audit serves all seeds, unless a graph holds constants
(`Audit.serves_every_seed`): those may be drawn for one seed alone. For each seed, `rebuild` checks that the file builds
the same network again, and that its initial values are random or constant, not trained before; up to 1,000 may follow
a pattern. `probe` has what the checks share: synthetic images, one training step, a comparison of two results. `graph`
reads operators, arguments and line numbers from a graph.

An `Audit` is then used for

- its ``ledger``, for the budget and the board;
- its ``graphs()``, with the parameters of a newly built network, on the device that trains;
- `describe` (in `summary`): the layer table, receptive field and multiply-adds, read from the same graphs;
- pickling: one process audits, another trains.
"""

from harness.audit.batch import refuse_batch_dependence, refuse_changed_classes
from harness.audit.count import Entry, Ledger
from harness.audit.graph import arguments, cause, operators, over_the_same_tensors, short_name
from harness.audit.network import Audit, Graphs, audit, enforce, refuse_uneven_batches
from harness.audit.probe import one_step
from harness.audit.rebuild import refuse_another, refuse_other_audit
from harness.audit.start import refuse_trained_start
from harness.audit.summary import Layer, ModelSummary, describe

__all__ = [
    "Audit",
    "Entry",
    "Graphs",
    "Layer",
    "Ledger",
    "ModelSummary",
    "arguments",
    "audit",
    "cause",
    "describe",
    "enforce",
    "one_step",
    "operators",
    "over_the_same_tensors",
    "refuse_another",
    "refuse_batch_dependence",
    "refuse_changed_classes",
    "refuse_other_audit",
    "refuse_trained_start",
    "refuse_uneven_batches",
    "short_name",
]
