"""Named settings: the default, and the paper's own for each of its data sets.

SharpZO (arXiv 2506.20990), Table 8, with the change points and the spread of A that its released configurations
give; plain `paper` is EuroSAT's column. The paper's box bound on w and its random start are left out: the search
starts at w = 0, exactly zero-shot.

>>> preset("paper:dtd", shots=8).generations
300
"""

from __future__ import annotations

from typing import Any

from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.errors import UserError

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


def preset(name: str = "default", **changes: Any) -> TuneConfig:
    """A configuration by name.

    Args:
        name: "default", "paper", or "paper:" with one of the paper's data sets.
        changes: options to set otherwise.

    Returns:
        The configuration, with `preset` set to the name.

    Raises:
        UserError: no such preset, or a value that is refused.
        TypeError: an option that does not exist.
    """
    if name == "default":
        return TuneConfig(**changes)
    family, colon, dataset = name.partition(":")
    dataset = dataset if colon else "eurosat"
    if family != "paper" or dataset not in PAPER:
        raise UserError(f"preset {name!r}: choose default, paper, or paper: and one of {', '.join(PAPER)}")
    return TuneConfig(**{**_paper(dataset), "preset": name, **changes})


def check(config: TuneConfig) -> None:
    """Refuse a configuration that only carries a preset's name: the name alone sets nothing.

    Raises:
        UserError: no such preset, or less than half of its settings are there.
    """
    named, plain = preset(config.preset).to_dict(), TuneConfig().to_dict()
    own = [key for key, value in named.items() if key != "preset" and value != plain[key]]
    if 2 * sum(getattr(config, key) == named[key] for key in own) < len(own):
        raise UserError(
            f"preset {config.preset!r} is a name alone here: make the options with preset({config.preset!r})"
        )


def _paper(dataset: str) -> dict[str, Any]:
    sigma, change_point, learning_rate, spread, mu = PAPER[dataset]
    return {
        "dimension": 512,
        "projection_std": spread,
        "population": 40,
        "covariance": "full",
        "sigma": sigma,
        "generations": change_point,
        "patience": change_point,
        "warmup_share": 1.0,
        "rho": 0.1,
        "sharpness": "cge",
        "sharpness_mu": mu,
        "sharpness_smoothing": 0.0,
        "steps": 20_000,
        "learning_rate": learning_rate,
        "rule": "sgd",
        "schedule": "constant",
        "estimator": "rge",
        "draws": 1,
        "mu": 1e-3,
        "keep": 0.5,
        "metric": "zscore-squared",
        "mask_interval": 200,
        "mask_estimator": "cge",
        "mask_mu": 1e-5,
        "validate_every": 20,
        "averaging": 0.0,
        "selection_slack": 0.0,
    }
