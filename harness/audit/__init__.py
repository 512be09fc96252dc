"""The audit: what a network stores, counted on its exported graphs, and what a network may not do."""

from harness.audit.batch import refuse_batch_dependence, refuse_changed_classes
from harness.audit.count import Entry, Ledger
from harness.audit.graph import arguments, cause, operators, over_the_same_tensors, short_name
from harness.audit.network import Audit, Graphs, audit, enforce
from harness.audit.rebuild import refuse_another, refuse_other_audit, refuse_trained_start
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
    "operators",
    "over_the_same_tensors",
    "refuse_another",
    "refuse_batch_dependence",
    "refuse_changed_classes",
    "refuse_other_audit",
    "refuse_trained_start",
    "short_name",
]
