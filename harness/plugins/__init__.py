"""Plug-ins: load an architecture or a study from a path, and check it against its contract.

A plug-in is one self-contained Python file; its path and text identify it. `architecture` and `study` hold the two
contracts, `source` reads and executes a file, `sandbox` attributes errors and side effects to it, and `settings`
applies and prints knobs and recipe fields.
"""

from harness.plugins.architecture import build_network, declaration, from_source, load
from harness.plugins.sandbox import in_one_process
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
    "apply_settings",
    "build_network",
    "changed_settings",
    "declaration",
    "from_source",
    "in_one_process",
    "load",
    "load_study",
    "run_command",
    "settings_text",
    "settings_texts",
    "short_value",
    "suggest",
    "value_text",
]
