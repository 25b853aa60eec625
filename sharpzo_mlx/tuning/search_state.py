"""All that changes in a search, as a record that a checkpoint saves and restores.

Arrays and plain numbers are kept apart: arrays go into a safetensors file by name, numbers into JSON.

>>> Counters().stage
1
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import mlx.core as mx

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.optimisers.cma import CMAState
from sharpzo_mlx.optimisers.sharpness import SharpnessState
from sharpzo_mlx.optimisers.stage2 import State
from sharpzo_mlx.runs.json_record import Amount, Count, Share, checked
from sharpzo_mlx.tuning.selection import SelectionState

POINTS = ("best_w", "cma.mean", "stage2.w", "stage2.average")  # of the search; they must be finite

S = TypeVar("S", bound="CMAState | SharpnessState | State")


@dataclass
class Counters:
    """The plain numbers of a search.

    Attributes:
        stage: 1 or 2.
        step: generations or steps made in the stage.
        total_steps: length of stage 2, 0 before it begins.
        queries: evaluations of the training loss.
        val_queries: validations.
        elapsed: seconds so far.
        mark: the validation accuracy that stage 1 has to improve on.
        stale: generations since it did.
        validated: the step of stage 2 that was validated last.
        kept: the step of stage 2 whose candidate was kept last.
    """

    stage: Literal[1, 2] = 1
    step: Count = 0
    total_steps: Count = 0
    queries: Count = 0
    val_queries: Count = 0
    elapsed: Amount = 0.0
    mark: Share = 0.0
    stale: Count = 0
    validated: Count = 0
    kept: Count = 0


@dataclass(frozen=True)
class SearchState:
    """The optimisers' states, the best vector so far [d], the counters and the selection."""

    cma: CMAState
    sharp: SharpnessState
    descent: State
    best_w: mx.array
    counters: Counters
    selection: SelectionState

    def arrays(self) -> dict[str, mx.array]:
        """Return all arrays by name."""
        parts: tuple[tuple[str, CMAState | SharpnessState | State], ...] = (
            ("cma", self.cma),
            ("sharpness", self.sharp),
            ("stage2", self.descent),
        )
        named = {f"{part}.{name}": x for part, state in parts for name, x in arrays_of(state).items()}
        return {**named, "best_w": self.best_w}

    def to_json(self) -> dict[str, Any]:
        """Return all plain numbers."""
        return {**dataclasses.asdict(self.counters), "selection": self.selection.to_json()}

    @classmethod
    def from_checkpoint(
        cls, like: SearchState, arrays: Mapping[str, mx.array], facts: Mapping[str, Any]
    ) -> SearchState:
        """Return the state that `arrays` and `to_json` gave.

        Args:
            like: a state of the same configuration.
            arrays: by name.
            facts: the plain numbers.

        Raises:
            UserError: one is missing: another version made the checkpoint, and its numbers could not be repeated.
            ValueError: one is damaged: of another kind or shape, or out of range; the message names it.
        """
        missing = [name for name in like.arrays() if name not in arrays]
        missing += [name for name in like.to_json() if name not in facts]
        if missing:
            raise UserError(f"the checkpoint has no {missing[0]}: another version made it; tune anew")
        _check_arrays(like.arrays(), arrays)
        selection = SelectionState.from_json(facts["selection"], "selection")
        if selection.best is None:  # w = 0 is validated before the first checkpoint
            raise ValueError("selection.best is missing")
        return cls(
            cma=_restored(like.cma, arrays, "cma"),
            sharp=_restored(like.sharp, arrays, "sharpness"),
            descent=_restored(like.descent, arrays, "stage2"),
            best_w=arrays["best_w"],
            counters=checked(Counters, dict(facts)),
            selection=selection,
        )


def arrays_of(state: CMAState | SharpnessState | State) -> dict[str, mx.array]:
    """Return the arrays of an optimiser's state by name."""
    return {item.name: getattr(state, item.name) for item in dataclasses.fields(state)}


def _check_arrays(like: Mapping[str, mx.array], arrays: Mapping[str, mx.array]) -> None:
    """Raise ValueError with the name of an array of another type or shape, or of a point that is not finite."""
    for name, expected in like.items():
        found = arrays[name]
        if (found.dtype, found.shape) != (expected.dtype, expected.shape):
            raise ValueError(f"{name} is {found.dtype} of shape {found.shape}, not {expected.dtype} {expected.shape}")
        if name in POINTS and not mx.all(mx.isfinite(found)).item():
            raise ValueError(f"{name} has numbers that are not finite")


def _restored(state: S, arrays: Mapping[str, mx.array], part: str) -> S:
    changes: dict[str, Any] = {name: arrays[f"{part}.{name}"] for name in arrays_of(state)}
    return replace(state, **changes)
