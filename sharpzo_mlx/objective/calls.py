"""What is asked of an objective, by name, and as a record for helpers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

Call: TypeAlias = Literal["losses", "image_losses", "features", "jvp", "feature_slopes"]
DERIVATIVES: frozenset[Call] = frozenset(("jvp", "feature_slopes"))


@dataclass(frozen=True)
class CandidatePiece:
    """Candidates for a helper.

    Attributes:
        call: what is computed of them.
        rows: points [P, d] of a whole chunk, and for derivatives directions [P, d].
        start, stop: which of the chunk's rows.
        cores: for how many cores NumPy's work is cut.
    """

    call: str
    rows: list[np.ndarray]
    start: int
    stop: int
    cores: int
