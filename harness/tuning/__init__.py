"""Studies: proposes, trains and logs trials. The only package that imports optuna."""

from harness.tuning.driver import tune
from harness.tuning.log import Log, alone
from harness.tuning.propose import FIRST_SEED, Proposer
from harness.tuning.search import BATCH, COUNTED, Search, studies_folder
from harness.tuning.studies import confirm, left_over, names, read, records, truncate_log, winner

__all__ = [
    "BATCH",
    "COUNTED",
    "FIRST_SEED",
    "Log",
    "Proposer",
    "Search",
    "alone",
    "confirm",
    "left_over",
    "names",
    "read",
    "records",
    "studies_folder",
    "truncate_log",
    "tune",
    "winner",
]
