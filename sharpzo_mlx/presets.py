"""Named configurations: the default, and the paper's own for each of its data sets.

SharpZO (arXiv 2506.20990), Table 8, with the change points and the spread of A that its released configurations
give; plain `paper` is EuroSAT's column. The paper's box bound on w and its random start are left out: the search
starts at w = 0, exactly zero-shot.

>>> preset("paper:dtd", shots=8).generations
300
"""

from __future__ import annotations

from typing import Any

from sharpzo_mlx.config import OPTIMISER, TuneConfig
from sharpzo_mlx.errors import UserError

DEFAULT = "default"
# data set: sigma, change point (generations of stage 1), learning rate of stage 2, std of A, mu of CGE in stage 1
PAPER: dict[str, tuple[float, int, float, float, float]] = {
    "pets": (0.1, 100, 1e-3, 0.2, 1e-3),
    "flowers": (0.4, 500, 1e-3, 0.2, 1e-3),
    "aircraft": (0.2, 400, 1e-3, 0.2, 1e-3),
    "dtd": (0.4, 300, 1e-3, 1.0, 1e-5),
    "eurosat": (0.4, 500, 1e-3, 1.0, 1e-3),
    "cars": (1.0, 100, 1e-3, 0.2, 1e-3),
    "food": (0.1, 100, 1e-3, 0.2, 1e-3),
    "sun": (0.4, 400, 1e-1, 0.2, 1e-3),
    "caltech": (0.4, 200, 1e-3, 0.2, 1e-3),
    "ucf": (0.1, 200, 1e-3, 0.2, 1e-3),
    "imagenet": (1.0, 200, 1e-1, 1.0, 1e-5),
}


def preset(name: str = DEFAULT, **changes: Any) -> TuneConfig:
    """Return the configuration of a name.

    Args:
        name: "default", "paper", or "paper:" with one of the paper's data sets.
        changes: fields of TuneConfig to set otherwise.

    Raises:
        UserError: there is no such preset, or a value is refused.
        TypeError: there is no such field.
    """
    kept = {key: value for key, value in preset_settings(name).items() if key.split(".")[0] not in changes}
    return TuneConfig(**changes).with_settings(kept)


def preset_settings(name: str) -> dict[str, Any]:
    """Return the settings that a preset changes from the default, by name.

    Raises:
        UserError: there is no such preset.
    """
    if name == DEFAULT:
        return {}
    family, colon, dataset = name.partition(":")
    dataset = dataset if colon else "eurosat"
    if family != "paper" or dataset not in PAPER:
        raise UserError(f"preset {name!r}: choose default, paper, or paper: and one of {', '.join(PAPER)}")
    return _paper(dataset)


def _paper(dataset: str) -> dict[str, Any]:
    sigma, change_point, learning_rate, std, mu = PAPER[dataset]
    return {
        "head": "none",
        "generations": change_point,
        "steps": 20_000,
        "space.dimension": 512,
        "space.projection_std": std,
        "stage1.population": 40,
        "stage1.sigma": sigma,
        "stage1.covariance": "full",
        "stage1.patience": change_point,
        "stage1.budget_share": 1.0,
        "sharpness.rho": 0.1,
        "sharpness.estimator": "cge",
        "sharpness.mu": mu,
        "sharpness.smoothing": 0.0,
        OPTIMISER: "zo-sgd",
        "stage2.learning_rate": learning_rate,
        "stage2.rule": "sgd",
        "stage2.schedule": "constant",
        "stage2.estimator": "rge",
        "stage2.draws": 1,
        "stage2.mu": 1e-3,
        "stage2.averaging": 0.0,
        "pruning.keep": 0.5,
        "pruning.metric": "zscore-squared",
        "pruning.interval": 200,
        "pruning.estimator": "cge",
        "pruning.mu": 1e-5,
        "selection.slack": 0.0,
        "selection.every": 20,
    }
