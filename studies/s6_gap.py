"""Learning rate, dropout, width, batch size and weight decay of s6_gap."""

ARCHITECTURE = "architectures/s6_gap.py"


def suggest(trial):
    """Widths from 17 on are over the budget: the audit says so, and the sampler learns it."""
    return {
        "lr": trial.suggest_float("lr", 1e-2, 3e-1, log=True),
        "dropout": trial.suggest_float("dropout", 0.0, 0.2),
        "width": trial.suggest_int("width", 8, 20),
        "batch_size": trial.suggest_categorical("batch_size", [64, 128, 256, 512]),
        "weight_decay": trial.suggest_float("weight_decay", 1e-6, 1e-2, log=True),
    }
