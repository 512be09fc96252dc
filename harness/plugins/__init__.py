"""Plug-ins: from a path to an `Architecture` or a `Study`, by the rules of the two contracts."""

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
