"""Runs: a job trained, recorded and resumed."""

from harness.runs.build import build, inspect
from harness.runs.device import choose_device, device_name, gpu_without_code
from harness.runs.interleave import in_turns
from harness.runs.job import jobs, new_group, refuse_single_image
from harness.runs.profile import Profile, profiled
from harness.runs.record import record
from harness.runs.resume import Earlier, earlier, interrupted
from harness.runs.score import recheck_predictions, result_of, scored_epoch
from harness.runs.shared_audits import expect, leave, leave_nothing
from harness.runs.train import Event, Progress, Started, begin, choose_arithmetic, telling_breakdowns, train
from harness.runs.trial import Attempt, attempt

__all__ = [
    "Attempt",
    "Earlier",
    "Event",
    "Profile",
    "Progress",
    "Started",
    "attempt",
    "begin",
    "build",
    "choose_arithmetic",
    "choose_device",
    "device_name",
    "earlier",
    "expect",
    "gpu_without_code",
    "in_turns",
    "inspect",
    "interrupted",
    "jobs",
    "leave",
    "leave_nothing",
    "new_group",
    "profiled",
    "recheck_predictions",
    "record",
    "refuse_single_image",
    "result_of",
    "scored_epoch",
    "telling_breakdowns",
    "train",
]
