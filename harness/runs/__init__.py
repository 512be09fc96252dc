"""Runs: trains, records and resumes jobs."""

from harness.runs.build import build, inspect
from harness.runs.carry import carry_over, runs_to_carry
from harness.runs.device import choose_device, device_name, gpu_without_code
from harness.runs.environment import choose_author
from harness.runs.existing import find_existing_runs, plan_training
from harness.runs.interleave import interleave
from harness.runs.job import jobs, new_group, refuse_single_image
from harness.runs.profile import Profile, profiled
from harness.runs.record import record
from harness.runs.resume import load_interrupted
from harness.runs.score import recheck_predictions, result_of, scored_epoch
from harness.runs.shared_audits import expect_audit, leave_audit, leave_no_audit
from harness.runs.train import Event, Progress, Started, choose_mode, prepare_training, raising_crashes, train
from harness.runs.trial import TrialRequest, train_trials
from harness.runs.verify import (
    FEWEST_EXACT,
    FEWEST_OTHERS,
    Training,
    VerificationPlan,
    conclude,
    forget_trainings,
    keep_training,
    kept_training,
    plan_verification,
    train_unrecorded,
)

__all__ = [
    "FEWEST_EXACT",
    "FEWEST_OTHERS",
    "Event",
    "Profile",
    "Progress",
    "Started",
    "Training",
    "TrialRequest",
    "VerificationPlan",
    "build",
    "carry_over",
    "choose_author",
    "choose_device",
    "choose_mode",
    "conclude",
    "device_name",
    "expect_audit",
    "find_existing_runs",
    "forget_trainings",
    "gpu_without_code",
    "inspect",
    "interleave",
    "jobs",
    "keep_training",
    "kept_training",
    "leave_audit",
    "leave_no_audit",
    "load_interrupted",
    "new_group",
    "plan_training",
    "plan_verification",
    "prepare_training",
    "profiled",
    "raising_crashes",
    "recheck_predictions",
    "record",
    "refuse_single_image",
    "result_of",
    "runs_to_carry",
    "scored_epoch",
    "train",
    "train_trials",
    "train_unrecorded",
]
