"""Plug-ins: load an architecture or a study from a path, and check it against its contract.

A plug-in is one self-contained Python file; its path and text identify it. It is executed in a confined process of its
own (`harness.confine`), never in one that has data, labels, records or the training loop. `architecture` and `study`
hold the two contracts; the lower half of each runs in the confined process. `source` reads and executes a file,
`running` attributes errors to its line, `handover` calls the confined process and passes its refusals on, and
`settings` applies and prints knobs and recipe fields.
"""

from harness.plugins.architecture import Executed, build_network, declaration, execute, from_source, load
from harness.plugins.handover import as_data, error_of, reply, run_confined
from harness.plugins.settings import (
    apply_settings,
    changed_settings,
    run_command,
    settings_text,
    settings_texts,
    short_value,
    value_text,
)
from harness.plugins.study import PRUNERS, SAMPLERS, load_study, suggest

__all__ = [
    "PRUNERS",
    "SAMPLERS",
    "Executed",
    "apply_settings",
    "as_data",
    "build_network",
    "changed_settings",
    "declaration",
    "error_of",
    "execute",
    "from_source",
    "load",
    "load_study",
    "reply",
    "run_command",
    "run_confined",
    "settings_text",
    "settings_texts",
    "short_value",
    "suggest",
    "value_text",
]
