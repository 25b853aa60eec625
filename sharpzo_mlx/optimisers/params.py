"""The settings of the optimisers: names, defaults, ranges and help texts, declared once and without MLX.

The defaults are those of `tune`; `presets` has the paper's (SharpZO, arXiv 2506.20990, Table 8). They are kept apart
from the code that uses them so that the command line's help need not load MLX.

>>> GaussNewtonParams(draws=16).draws
16
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from sharpzo_mlx.options import check, option

MOST = 65_536  # coordinates of w, candidates or directions: beyond, one batch takes gigabytes
LONGEST = 10**9  # generations and steps: their counters are int32
LARGEST = 10**15  # other whole numbers
NEAREST = 1e-12  # probes that lie nearer are the same point in float32
LARGE = 1e6  # step sizes, radii and probe distances: squares of larger ones leave float32

Covariance = Literal["full", "diagonal", "identity"]
Estimator = Literal["cge", "rge", "forward"]
StepEstimator = Literal["rge", "forward"]
SharpnessEstimator = Literal["cge", "rge", "forward", "population", "none"]
Metric = Literal["zscore-squared", "zscore-fisher", "magnitude", "gradient", "random", "none"]
Rule = Literal["sgd", "momentum", "adam", "normalised"]
Schedule = Literal["constant", "cosine", "linear"]


@dataclass(frozen=True)
class SharpnessParams:
    """The shift of stage 1 towards higher loss (SharpZO section 3.1, eq. 3)."""

    group: ClassVar[str] = "sharpness"

    rho: float = option(0.5, "length of the shift in units of w; 0 gives plain CMA-ES", minimum=0, maximum=LARGE)
    estimator: SharpnessEstimator = option("population", "estimate of the shift's direction")
    mu: float = option(1e-2, "probe distance of that estimate (cge, rge)", minimum=NEAREST, maximum=LARGE)
    directions: int | None = option(
        None, "random directions of that estimate (none: d/10 or all)", minimum=1, maximum=MOST
    )
    smoothing: float = option(0.9, "share of the previous direction that is kept", minimum=0, maximum=0.999)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class PruningParams:
    """The mask of stage 2: which coordinates of w are searched (SharpZO section 3.2, eq. 4)."""

    group: ClassVar[str] = "pruning"

    keep: float = option(1.0, "share of coordinates that are searched; 1 searches all", above=0, maximum=1)
    metric: Metric = option("zscore-squared", "importance that ranks the coordinates")
    interval: int = option(10, "steps between two masks (K)", minimum=1, maximum=LONGEST)
    estimator: Estimator = option("rge", "gradient estimate behind the importance")
    directions: int | None = option(
        32, "random directions of that estimate (none: d/10 or all)", minimum=1, maximum=MOST
    )
    mu: float = option(1e-2, "probe distance of that estimate", minimum=NEAREST, maximum=LARGE)

    def __post_init__(self) -> None:
        check(self)

    @property
    def prunes(self) -> bool:
        """Whether any coordinate is ever left out."""
        return self.keep < 1 and self.metric != "none"


@dataclass(frozen=True)
class GaussNewtonParams:
    """Stage 2 by Gauss-Newton steps in random subspaces, the default."""

    group: ClassVar[str] = "stage2"
    optimiser: ClassVar[str] = "gauss-newton"
    sees_gradient: ClassVar[bool] = True  # its steps see enough of the gradient to choose masks

    draws: int = option(32, "directions of a step (q)", minimum=1, maximum=MOST)
    radius: float = option(4.0, "first radius of the trust region", above=0, maximum=LARGE)
    probe_share: float = option(0.1, "probe distance as a share of the radius", minimum=0, maximum=1)
    least_probe: float = option(1e-2, "smallest probe distance", minimum=NEAREST, maximum=LARGE)
    estimator: StepEstimator = option("rge", "slopes by differences (rge) or forward-mode derivatives (forward)")
    exploration: float = option(0.25, "share of the steps, the first, that are taken at any loss", minimum=0, maximum=1)
    exploration_steps: int = option(30, "such steps again once the search has come to rest", minimum=1, maximum=LONGEST)
    averaging: float = option(0.9, "share of the previous average of iterates (0: none)", minimum=0, maximum=0.9999)

    def __post_init__(self) -> None:
        check(self)

    @property
    def linear_directions(self) -> int:
        """Directions of the linear model of class features that a step holds in memory."""
        return self.draws

    def differences_replaced(self) -> dict[str, str]:
        """Return the settings, without their group, that replace finite differences by forward-mode derivatives."""
        return {"estimator": "forward"} if self.estimator == "rge" else {}


@dataclass(frozen=True)
class ZOSGDParams:
    """Stage 2 by zeroth-order SGD, the paper's steps (SharpZO section 3.2, eq. 5)."""

    group: ClassVar[str] = "stage2"
    optimiser: ClassVar[str] = "zo-sgd"
    sees_gradient: ClassVar[bool] = False

    learning_rate: float = option(0.3, "step size; the length of a step if rule is normalised", above=0, maximum=LARGE)
    rule: Rule = option("sgd", "update rule")
    schedule: Schedule = option("cosine", "learning rate over time")
    draws: int = option(1, "random directions of a step (q)", minimum=1, maximum=MOST)
    mu: float = option(1e-2, "probe distance of a step", minimum=NEAREST, maximum=LARGE)
    estimator: StepEstimator = option("rge", "slopes by differences (rge) or forward-mode derivatives (forward)")
    beta1: float = option(0.9, "weight of the past in the first moment", minimum=0, below=1)
    beta2: float = option(0.999, "weight of the past in adam's second moment", minimum=0, below=1)
    averaging: float = option(0.9, "share of the previous average of iterates (0: none)", minimum=0, maximum=0.9999)

    def __post_init__(self) -> None:
        check(self)

    @property
    def linear_directions(self) -> int:
        """Directions of the linear model of class features that a step holds in memory."""
        return 0

    def differences_replaced(self) -> dict[str, str]:
        """Return the settings, without their group, that replace finite differences by forward-mode derivatives."""
        return {"estimator": "forward"} if self.estimator == "rge" else {}


Stage2Params: TypeAlias = GaussNewtonParams | ZOSGDParams
STAGE2: dict[str, type[Stage2Params]] = {
    GaussNewtonParams.optimiser: GaussNewtonParams,
    ZOSGDParams.optimiser: ZOSGDParams,
}
