"""The recipe alone: s6_gap as it is, searched over how it is trained."""

ARCHITECTURE = "architectures/s6_gap.py"


def suggest(trial):
    return {
        "lr": trial.suggest_float("lr", 1e-2, 4e-1, log=True),
        "momentum": trial.suggest_float("momentum", 0.8, 0.97),
        "batch_size": trial.suggest_categorical("batch_size", [64, 128, 256, 512]),
        "weight_decay": trial.suggest_float("weight_decay", 1e-6, 1e-2, log=True),
        "schedule": trial.suggest_categorical("schedule", ["one-cycle", "cosine", "linear"]),
        "warmup_epochs": trial.suggest_float("warmup_epochs", 0.0, 1.0),
        "label_smoothing": trial.suggest_float("label_smoothing", 0.0, 0.1),
        "rotation": trial.suggest_float("rotation", 0.0, 20.0),
        "translate": trial.suggest_float("translate", 0.0, 0.2),
    }
