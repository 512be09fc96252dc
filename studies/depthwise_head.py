"""Learning rate, weight decay, batch size, averaging and strength of augmentation of depthwise_head."""

ARCHITECTURE = "architectures/depthwise_head.py"


def suggest(trial):
    """One factor scales all four ranges of the augmentation: at 1 they are the file's own."""
    strength = trial.suggest_float("strength", 0.4, 1.4)
    return {
        "lr": trial.suggest_float("lr", 5e-2, 4e-1, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-5, 2e-3, log=True),
        "batch_size": trial.suggest_categorical("batch_size", [64, 128, 256]),
        "ema": trial.suggest_categorical("ema", [0.99, 0.998, 0.999, 0.9995]),
        "rotation": 12 * strength,
        "translate": 0.12 * strength,
        "scale": 0.1 * strength,
        "shear": 0.1 * strength,
    }
