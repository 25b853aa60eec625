"""The configuration of one run: what a user chooses, and every setting of the search behind it.

What a user chooses stands in `TuneConfig` itself and is an option of the command line. Everything else is grouped
(`space`, `stage1`, `sharpness`, `stage2`, `pruning`, `selection`) and reached by name: `stage2.draws`. A configuration
is checked when it is made, before anything is loaded, and survives as a TOML file.

>>> TuneConfig(shots=16).with_settings({"stage2.draws": 48}).stage2.draws
48
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.optimisers.params import (
    LARGE,
    LARGEST,
    LONGEST,
    MOST,
    STAGE2,
    Covariance,
    GaussNewtonParams,
    PruningParams,
    SharpnessParams,
    Stage2Params,
)
from sharpzo_mlx.options import NONE, Option, check, declared, nearest, option
from sharpzo_mlx.runtime.units import parse_bytes, parse_seconds

DEFAULT_GENERATIONS, DEFAULT_STEPS = 60, 120
STEPS_BESIDE_HEAD, PATIENCE_BESIDE_HEAD = 24, 10  # words then learn what the head cannot say, which is soon found
MOST_FULL = 4096  # coordinates of a full covariance: beyond, its matrices take gigabytes and its roots minutes
OPTIMISER = "stage2.optimiser"
POSITIVE: dict[str, Any] = {"minimum": 1, "maximum": LARGEST}
HeadKind = Literal["none", "gda"]


@dataclass(frozen=True)
class SpaceParams:
    """The space of w: ctx(w) = p0 + reshape(A w) (SharpZO, arXiv 2506.20990, section 3)."""

    group: ClassVar[str] = "space"

    dimension: int = option(512, "length d of the vector w that is searched", minimum=2, maximum=MOST)
    relative_scale: float = option(
        40.0,
        "spread of the context's shift at |w_j| = 1, over the spread of the token embeddings",
        above=0,
        maximum=LARGE,
    )
    projection_std: float | None = option(
        None, "standard deviation of A's entries (none: from relative_scale)", above=0, maximum=LARGE
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Stage1Params:
    """Stage 1: CMA-ES, and when it gives way to stage 2 (SharpZO sections 3.1 and 5)."""

    group: ClassVar[str] = "stage1"

    population: int = option(20, "candidates of a generation", minimum=4, maximum=MOST)
    sigma: float = option(0.4, "first step size", above=0, maximum=LARGE)
    covariance: Covariance = option("diagonal", "covariance model")
    patience: int = option(10, "generations without improvement before stage 2 begins", minimum=1, maximum=LONGEST)
    min_improvement: float = option(0.01, "gain in validation accuracy that counts as improvement", minimum=0)
    budget_share: float = option(0.25, "share of a query or time budget that stage 1 may use", minimum=0, maximum=1)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class SelectionParams:
    """Which candidate is kept: the best on the validation images (SharpZO section 5)."""

    group: ClassVar[str] = "selection"

    slack: float = option(
        1.0, "validation accuracies this many standard errors apart are equal, and the loss decides", minimum=0
    )
    every: int = option(2, "steps of stage 2 between two validations", minimum=1, maximum=LONGEST)
    patience: int | None = option(
        None,
        "steps of stage 2 without a better prompt that end it [10, never with --head none or a budget]",
        minimum=1,
        maximum=LONGEST,
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class TuneConfig:
    """All settings of one run of `tune`; frozen, and part of the run on disk.

    The first fields are the options of the command line. The groups after them hold the settings of the search.
    """

    shots: int | None = option(None, "training images a class [16, or all there are]", minimum=1, maximum=LONGEST)
    seed: int = option(0, "seed of the drawn images and of the search", minimum=0, maximum=LARGEST)
    template: str | None = option(None, "prompt with {} for the class name [a photo of a {}.]")
    templates: str | None = option(None, "average zero-shot over templates: imagenet, small, or a file with one a line")
    head: HeadKind = option("gda", "classifier learned from the images beside the words; none: SharpZO alone")
    views: int | None = option(None, "augmented views an image [10 up to 8 images a class]", minimum=0, maximum=100)
    generations: int | None = option(
        None, "generations of stage 1 [0, with --head none 60]", minimum=0, maximum=LONGEST
    )
    steps: int | None = option(None, "steps of stage 2 [24, with --head none 120]", minimum=0, maximum=LONGEST)
    query_budget: int | None = option(None, "stop after this many queries (evaluations of the loss)", **POSITIVE)
    time_budget: float | None = option(None, "stop after this time (90s, 5m, 1h)", above=0, unit="seconds")
    memory_budget: int | None = option(None, "memory for a batch [256MB, on a GPU 1GB]", **POSITIVE, unit="bytes")

    space: SpaceParams = field(default_factory=SpaceParams)
    stage1: Stage1Params = field(default_factory=Stage1Params)
    sharpness: SharpnessParams = field(default_factory=SharpnessParams)
    stage2: Stage2Params = field(default_factory=GaussNewtonParams)
    pruning: PruningParams = field(default_factory=PruningParams)
    selection: SelectionParams = field(default_factory=SelectionParams)

    def __post_init__(self) -> None:
        """Check every value; the error names the option, the value and what is allowed."""
        for group in GROUPS:
            if not isinstance(getattr(self, group), _group_types(group)):
                kinds = " or ".join(kind.__name__ for kind in _group_types(group))
                raise UserError(f"{group} {getattr(self, group)!r}: give {kinds}")
        if self.template is not None and str(self.template).count("{}") != 1:
            raise UserError(f"template {self.template!r}: write {{}} once, where the class name goes")
        check(self)
        if self.stage1.covariance == "full" and self.space.dimension > MOST_FULL:
            raise UserError(
                f"space.dimension {self.space.dimension}: must be at most {MOST_FULL} with stage1.covariance full; "
                "choose diagonal"
            )

    @property
    def most_steps(self) -> int:
        """Steps of stage 2 at most, if no budget ends it before."""
        if self.steps is not None:
            return self.steps
        if self.query_budget or self.time_budget:
            return LONGEST
        return DEFAULT_STEPS if self.head == "none" else STEPS_BESIDE_HEAD

    @property
    def patience(self) -> int | None:
        """Steps of stage 2 without a better prompt that end it; None: they do not."""
        if self.selection.patience is not None:
            return self.selection.patience
        asked = self.steps is not None or self.query_budget or self.time_budget
        return None if asked or self.head == "none" else PATIENCE_BESIDE_HEAD

    @property
    def most_generations(self) -> int:
        """Generations of stage 1 at most, if no budget ends it before."""
        if self.generations is not None:
            return self.generations
        return DEFAULT_GENERATIONS if self.head == "none" else 0

    def settings(self) -> dict[str, Any]:
        """Return every setting by its name, such as `seed` or `stage2.draws`."""
        return {name: self._get(name) for name, _ in names(self.stage2.optimiser)} | {OPTIMISER: self.stage2.optimiser}

    def _get(self, name: str) -> Any:
        group, dot, own = name.rpartition(".")
        return getattr(getattr(self, group) if dot else self, own)

    def with_settings(self, settings: Mapping[str, Any]) -> TuneConfig:
        """Return the configuration with some settings changed.

        Args:
            settings: values by name; a text is read as the option's kind, "none" as a missing value. Another
                `stage2.optimiser` begins with its own defaults.

        Raises:
            UserError: there is no such setting, or the value is refused.
        """
        base = self
        chosen = settings.get(OPTIMISER, self.stage2.optimiser)
        if not isinstance(chosen, str) or chosen not in STAGE2:
            raise UserError(f"{OPTIMISER} {chosen!r}: choose one of {', '.join(STAGE2)}")
        if chosen != self.stage2.optimiser:
            base = replace(self, stage2=STAGE2[chosen]())
        known = dict(names(chosen))
        changes: dict[str, dict[str, Any]] = {}
        for name, value in settings.items():
            if name == OPTIMISER:
                continue
            if name not in known:
                raise UserError(_unknown(name, known, chosen))
            group, _, own = name.rpartition(".")
            changes.setdefault(group, {})[own] = read_value(known[name], value, name)
        plain = changes.pop("", {})
        grouped = {group: replace(getattr(base, group), **values) for group, values in changes.items()}
        return replace(base, **plain, **grouped)

    def to_json(self) -> dict[str, Any]:
        """Return all settings as plain values, in groups."""
        plain = {one.name: getattr(self, one.name) for one in declared(TuneConfig)}
        grouped = {group: dataclasses.asdict(getattr(self, group)) for group in GROUPS}
        return {**plain, **grouped, "stage2": {"optimiser": self.stage2.optimiser, **grouped["stage2"]}}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> TuneConfig:
        """Return the configuration that `to_json` wrote; settings that are missing have their defaults.

        Raises:
            UserError: a setting is unknown or its value is refused.
        """
        return cls().with_settings(dict(flatten(content)))


GROUPS = ("space", "stage1", "sharpness", "stage2", "pruning", "selection")


def names(optimiser: str = GaussNewtonParams.optimiser) -> Iterator[tuple[str, Option]]:
    """Yield the name and the declaration of every setting, but for `stage2.optimiser` itself.

    Args:
        optimiser: whose settings stand under `stage2`.
    """
    for one in declared(TuneConfig):
        yield one.name, one
    for group in GROUPS:
        for one in declared(group_type(group, optimiser)):
            yield f"{group}.{one.name}", one


def _group_types(group: str) -> tuple[type, ...]:
    return tuple(STAGE2.values()) if group == "stage2" else (_GROUP_TYPES[group],)


def group_type(group: str, optimiser: str = GaussNewtonParams.optimiser) -> type:
    """Return the dataclass that declares the settings of a group."""
    return STAGE2[optimiser] if group == "stage2" else _GROUP_TYPES[group]


def read_value(one: Option, value: Any, name: str) -> Any:
    """Return a value as an option's kind; a text is parsed.

    Raises:
        UserError: the text cannot be read so.
    """
    if isinstance(value, int) and not isinstance(value, bool) and one.kind is float:
        return float(value) if abs(value) < 1 << 1000 else math.inf  # the check says that it is not finite
    if not isinstance(value, str):
        return value
    if one.optional and value.strip().lower() == NONE:
        return None
    if one.kind is str:
        return value
    try:
        if one.limits.unit:
            return {"bytes": parse_bytes, "seconds": parse_seconds}[one.limits.unit](value)
        if "_" in value:  # Python reads 1_000 as a number, and nobody means it
            raise ValueError
        return one.kind(value)
    except UserError as error:
        raise UserError(f"{name if '.' in name else one.flag}: {error}") from error
    except ValueError as error:
        kind = "a whole number" if one.kind is int else "a number"
        raise UserError(f"{name if '.' in name else one.flag} {value!r}: give {kind}") from error


_GROUP_TYPES: dict[str, type] = {
    "space": SpaceParams,
    "stage1": Stage1Params,
    "sharpness": SharpnessParams,
    "pruning": PruningParams,
    "selection": SelectionParams,
}


def flatten(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the settings of `to_json`'s groups by name, such as `stage2.draws`."""
    for name, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from ((f"{name}.{own}", inner) for own, inner in value.items())
        else:
            yield name, value


def _unknown(name: str, known: Mapping[str, Any], optimiser: str) -> str:
    if name in GROUPS:
        return f"{name}: a group of settings; write {name}.NAME, or a table [{name}] in a file"
    other = next((o for o in STAGE2 if o != optimiser and name in dict(names(o))), None)
    if other:
        own = ", ".join(option for option in known if option.startswith("stage2."))
        return f"{name}: a setting of {OPTIMISER} {other}; {optimiser} has {own}"
    hint = nearest(name, [*known, OPTIMISER]) or "; `sharpzo-mlx tune --list-settings` shows all"
    return f"{name or repr(name)}: no such setting{hint}"
