"""Channels, filters over the places, learning rate and strength of augmentation of p4m_convolution."""

ARCHITECTURE = "architectures/p4m_convolution.py"


def suggest(trial):
    """Search from 739 to 2,040 parameters; one factor scales all four ranges of the augmentation (0.5: the file's)."""
    strength = trial.suggest_float("strength", 0.2, 1.2)
    return {
        "channels": trial.suggest_categorical(
            "channels", ["1,1,1,1,1,2", "1,1,1,1,2,2", "1,1,2,2,2,2", "1,2,2,2,2,2", "2,2,2,2,2,2"]
        ),
        "filters": trial.suggest_int("filters", 1, 2),
        "lr": trial.suggest_float("lr", 5e-2, 4e-1, log=True),
        "rotation": 12 * strength,
        "translate": 0.12 * strength,
        "scale": 0.1 * strength,
        "shear": 0.1 * strength,
    }
