"""Learning rate, weight decay, batch size, averaging and strength of augmentation of shared_convolution."""

ARCHITECTURE = "architectures/shared_convolution.py"


def suggest(trial):
    """One factor scales all four ranges of the augmentation: 1 is 10 degrees, 10 % shift, 8 % size, 8 % shear."""
    strength = trial.suggest_float("strength", 0.2, 1.2)
    return {
        "lr": trial.suggest_float("lr", 5e-2, 4e-1, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-5, 1e-3, log=True),
        "batch_size": trial.suggest_categorical("batch_size", [64, 128, 256]),
        "ema": trial.suggest_categorical("ema", [0.99, 0.998, 0.999, 0.9995]),
        "rotation": 10 * strength,
        "translate": 0.1 * strength,
        "scale": 0.08 * strength,
        "shear": 0.08 * strength,
    }
