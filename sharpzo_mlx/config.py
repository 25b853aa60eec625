"""Every option of tuning, declared once: its name, default, limits and help text.

The command line is made from these fields, the run stores them, and `preset` gives the paper's own settings
(arXiv 2506.20990, Table 8). A configuration is checked when it is made, before anything is loaded.

>>> TuneConfig(shots=16, seed=0).population
20
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sharpzo_mlx.errors import UserError


def option(
    default: Any,
    help: str,
    group: str,
    *,
    choices: tuple[str, ...] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    exclusive: bool = False,
    unit: str | None = None,
) -> Any:
    """A dataclass field with what the command line and the check need to know about it.

    Args:
        default: the value when nothing is said.
        help: one line for the user.
        group: the heading it stands under in the help.
        choices: the words allowed.
        minimum: the smallest value allowed (excluded itself when `exclusive`).
        maximum: the largest value allowed.
        exclusive: whether `minimum` itself is refused.
        unit: "bytes" or "seconds" where the command line reads more than plain numbers.
    """
    details = {"help": help, "group": group, "choices": choices, "minimum": minimum, "maximum": maximum}
    return field(default=default, metadata={**details, "exclusive": exclusive, "unit": unit})


DATA, SPACE, WARMUP, SEARCH, BUDGET = "Data", "Prompt", "Stage 1: CMA-ES", "Stage 2: sparse search", "Budgets"
NO_HEAD = "none"
DEFAULT_STEPS, UNBOUNDED = 120, 10**9
ESTIMATORS = ("cge", "rge", "forward")
MOST_FULL = 4096  # coordinates of a full covariance: beyond, its matrices take gigabytes and its roots minutes


@dataclass(frozen=True)
class TuneConfig:
    """What one run of `tune` does; frozen, and part of the run on disk."""

    shots: int | None = option(None, "training images a class (16, or what there is)", DATA, minimum=1)
    seed: int = option(0, "one seed makes one result", DATA, minimum=0)
    template: str | None = option(
        None, "prompt with {} for the class name (a photo of a {}., or the known data set's own)", DATA
    )
    preset: str = option("default", "default, paper, or paper:DATASET", DATA)

    dimension: int = option(512, "length d of the vector that is searched", SPACE, minimum=2, maximum=65_536)
    relative_scale: float = option(
        40.0,
        "spread of the context's shift at |w_j| = 1, in units of the token embeddings' spread",
        SPACE,
        minimum=0,
        exclusive=True,
    )
    projection_std: float | None = option(
        None,
        "standard deviation of A's entries (default: from relative-scale)",
        SPACE,
        minimum=0,
        exclusive=True,
    )
    head: str = option(
        NO_HEAD,
        "join the tuned words with a closed-form classifier of the training images (gda: Gaussian discriminant "
        "analysis), weighted on the validation images",
        SPACE,
        choices=(NO_HEAD, "gda"),
    )

    generations: int = option(60, "generations of stage 1 at most", WARMUP, minimum=0)
    population: int = option(20, "candidates a generation", WARMUP, minimum=4)
    sigma: float = option(0.4, "first step size", WARMUP, minimum=0, exclusive=True)
    covariance: str = option("diagonal", "covariance model", WARMUP, choices=("full", "diagonal", "identity"))
    rho: float = option(0.5, "radius of the sharpness shift; 0 is plain CMA-ES", WARMUP, minimum=0)
    sharpness: str = option(
        "population", "estimate of the sharpness direction", WARMUP, choices=(*ESTIMATORS, "population")
    )
    sharpness_mu: float = option(1e-2, "probe distance of that estimate", WARMUP, minimum=0, exclusive=True)
    sharpness_directions: int | None = option(
        None, "random directions of that estimate (rge: d/10, forward: all coordinates)", WARMUP, minimum=1
    )
    sharpness_smoothing: float = option(
        0.9, "share of the old direction that is kept a generation", WARMUP, minimum=0, maximum=0.999
    )
    patience: int = option(10, "generations without improvement before stage 2", WARMUP, minimum=1)
    min_improvement: float = option(0.01, "gain in validation accuracy that counts", WARMUP, minimum=0)

    warmup_share: float = option(
        0.25, "share of a query or time budget that stage 1 may use", WARMUP, minimum=0, maximum=1
    )

    steps: int | None = option(None, "steps of stage 2 (120, or what a budget buys)", SEARCH, minimum=0)
    learning_rate: float = option(
        4.0,
        "step length (normalised), first radius (gauss-newton), rate (the others)",
        SEARCH,
        minimum=0,
        exclusive=True,
    )
    rule: str = option(
        "gauss-newton", "step rule", SEARCH, choices=("sgd", "momentum", "adam", "normalised", "gauss-newton")
    )
    schedule: str = option(
        "cosine", "step length over time (not gauss-newton)", SEARCH, choices=("constant", "linear", "cosine")
    )
    estimator: str = option("rge", "gradient estimate of a step", SEARCH, choices=("rge", "forward"))
    draws: int = option(32, "random directions a step (q)", SEARCH, minimum=1)
    mu: float = option(1e-2, "probe distance of a step", SEARCH, minimum=0, exclusive=True)
    probe_share: float = option(
        0.1,
        "probe distance of a gauss-newton step, as a share of its radius",
        SEARCH,
        minimum=0,
    )
    exploration: float = option(
        0.25,
        "share of the gauss-newton steps, the first ones, that move whatever the loss becomes",
        SEARCH,
        minimum=0,
        maximum=1,
    )
    exploration_steps: int = option(
        30, "such steps again whenever the search has come to rest (none if exploration is 0)", SEARCH, minimum=1
    )
    keep: float = option(
        1.0,
        "share of coordinates that are searched; 1 is dense",
        SEARCH,
        minimum=0,
        maximum=1,
        exclusive=True,
    )
    metric: str = option(
        "zscore-squared",
        "what ranks the coordinates",
        SEARCH,
        choices=("zscore-squared", "zscore-fisher", "magnitude", "gradient", "random", "none"),
    )
    mask_interval: int = option(10, "steps between new masks (K)", SEARCH, minimum=1)
    mask_estimator: str = option("rge", "gradient estimate of the mask", SEARCH, choices=ESTIMATORS)
    mask_directions: int | None = option(
        32,
        "random directions of that estimate (none given: d/10 with rge, all coordinates with forward)",
        SEARCH,
        minimum=1,
    )
    mask_mu: float = option(1e-2, "probe distance of that estimate", SEARCH, minimum=0, exclusive=True)
    averaging: float = option(
        0.9,
        "share of the old average of iterates that is kept a step (0: none)",
        SEARCH,
        minimum=0,
        maximum=0.9999,
    )
    validate_every: int = option(2, "steps of stage 2 between validations", SEARCH, minimum=1)

    selection_slack: float = option(
        1.0, "validation accuracies this many standard errors apart are equal, and the loss decides", SEARCH, minimum=0
    )

    query_budget: int | None = option(None, "stop after this many queries", BUDGET, minimum=1)
    time_budget: float | None = option(
        None, "stop after this time (90, 90s, 5m, 1h)", BUDGET, minimum=0, exclusive=True, unit="seconds"
    )
    memory_budget: int | None = option(
        None, "memory for one batch of candidates (512MB, 2GB)", BUDGET, minimum=1, unit="bytes"
    )

    def __post_init__(self) -> None:
        """Check every value; the error names the option, the value and what is allowed."""
        for item in dataclasses.fields(self):
            _check(item, getattr(self, item.name))
        if self.template is not None and str(self.template).count("{}") != 1:
            raise UserError(f"template {self.template!r}: write {{}} once, where the class name goes")
        if self.covariance == "full" and self.dimension > MOST_FULL:
            raise UserError(
                f"dimension {self.dimension}: must be at most {MOST_FULL} with covariance full; choose diagonal"
            )

    @property
    def most_steps(self) -> int:
        """Steps of stage 2 at most, where no budget ends it before."""
        if self.steps is not None:
            return self.steps
        return UNBOUNDED if self.query_budget or self.time_budget else DEFAULT_STEPS

    def to_dict(self) -> dict[str, Any]:
        """All options as plain values, for the run on disk."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TuneConfig:
        """The configuration that `to_dict` wrote; an option that is not known is an error."""
        known = {item.name for item in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise UserError(f"unknown option {', '.join(unknown)}: the run was made by another version")
        return cls(**values)


def _check(item: dataclasses.Field[Any], value: Any) -> None:
    allowed = item.metadata
    name = item.name.replace("_", "-")
    if value is None:
        if "None" not in str(item.type):
            raise UserError(f"{name}: a value is needed")
        return
    if allowed["choices"] and value not in allowed["choices"]:
        raise UserError(f"{name} {value!r}: choose one of {', '.join(allowed['choices'])}")
    if isinstance(value, bool) or (str(item.type).startswith("int") and not isinstance(value, int)):
        raise UserError(f"{name} {value!r}: give a whole number")
    if str(item.type).startswith("float") and not isinstance(value, (int, float)):
        raise UserError(f"{name} {value!r}: give a number")
    if isinstance(value, (int, float)):
        _check_range(name, value, allowed)


def _check_range(name: str, value: float, allowed: Mapping[str, Any]) -> None:
    low, high = allowed["minimum"], allowed["maximum"]
    if not math.isfinite(value):
        raise UserError(f"{name} {value}: give a finite number")
    if low is not None and (value < low or (allowed["exclusive"] and value == low)):
        raise UserError(f"{name} {value}: must be {'above' if allowed['exclusive'] else 'at least'} {low:g}")
    if high is not None and value > high:
        raise UserError(f"{name} {value}: must be at most {high:g}")
