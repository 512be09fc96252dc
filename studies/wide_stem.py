"""Learning rate, dropout, width, batch size and weight decay of wide_stem."""

ARCHITECTURE = "architectures/wide_stem.py"


def suggest(trial):
    return {
        "lr": trial.suggest_float("lr", 3e-3, 1e-1, log=True),
        "dropout": trial.suggest_float("dropout", 0.0, 0.4),
        "width": trial.suggest_int("width", 16, 36, step=2),
        "batch_size": trial.suggest_categorical("batch_size", [64, 128, 256]),
        "weight_decay": trial.suggest_float("weight_decay", 1e-6, 1e-2, log=True),
    }
