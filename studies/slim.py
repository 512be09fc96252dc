"""Learning rate, dropout, width and schedule of slim."""

ARCHITECTURE = "architectures/slim.py"


def suggest(trial):
    return {
        "lr": trial.suggest_float("lr", 3e-3, 3e-1, log=True),
        "dropout": trial.suggest_float("dropout", 0.0, 0.2),
        "width": trial.suggest_int("width", 5, 10),
        "schedule": trial.suggest_categorical("schedule", ["constant", "step", "one-cycle", "cosine", "linear"]),
    }
