"""Learning rate, dropout, width, batch size and weight decay of gap_dropout."""

ARCHITECTURE = "architectures/gap_dropout.py"


def suggest(trial):
    return {
        "lr": trial.suggest_float("lr", 3e-3, 3e-1, log=True),
        "dropout": trial.suggest_float("dropout", 0.0, 0.2),
        "width": trial.suggest_int("width", 8, 18),
        "batch_size": trial.suggest_categorical("batch_size", [64, 128, 256]),
        "weight_decay": trial.suggest_float("weight_decay", 1e-6, 1e-2, log=True),
    }
