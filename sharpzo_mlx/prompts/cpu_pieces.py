"""Cut the text tower's work on the CPU into pieces (candidates, blocks of classes), one for a core at a time.

How the work is cut decides the last bits of its results, because a product of other rows may round in another way. A
`Share` is some of the candidates of a batch, cut as they would be among all of it, so another process that computes the
share finds the same bits.

>>> plan = PiecePlan(blocks=6, size=100, least=0, rows=512)
>>> plan.edges(7, cores=2)
[0, 1, 2, 3, 4, 5, 6, 7]
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from sharpzo_mlx.clip.cpu_layers import ROWS
from sharpzo_mlx.runtime.threads import workers

WORTH_A_CORE = 1e9  # operations of a piece: with fewer, handing pieces to threads costs more time than it saves


@dataclass(frozen=True)
class PieceSizes:
    """What the buffers of a piece of work depend on; see `objective.chunks`."""

    rows: int  # tokens of a piece, about
    block: int  # tokens of a block of suffixes
    context: int  # tokens of a context
    width: int  # of the tower's states
    hidden: int  # width inside an MLP
    heads: int


@dataclass(frozen=True)
class Share:
    """Some candidates of a batch.

    Attributes:
        start, stop: the candidates; both are edges of the batch's pieces.
        cores: for how many cores the batch is cut, whoever computes the share.
    """

    start: int
    stop: int
    cores: int


@dataclass(frozen=True)
class PiecePlan:
    """How batches of candidates are cut.

    Attributes:
        blocks: blocks of classes.
        size: tokens of a block under one candidate.
        least: pieces of fewer tokens are not made for the sake of more cores.
        rows: tokens of a piece, at most about.
    """

    blocks: int
    size: int
    least: int
    rows: int

    @classmethod
    def of(cls, blocks: int, size: int, *, width: int, layers: int) -> PiecePlan:
        """Return the plan for a tower of so many layers and that width."""
        return cls(blocks, size, int(WORTH_A_CORE / (24 * width**2 * layers)), ROWS)

    def pieces(self, candidates: int, share: Share | None = None) -> list[tuple[slice, slice]]:
        """Return the pieces of a batch, or of a share of it: of about `rows` tokens at most, enough for all cores."""
        rows, blocks = self._cut(candidates, workers() if share is None else share.cores)
        chosen = [a for a in rows if share is None or share.start <= a.start < share.stop]
        return [(a, b) for a in chosen for b in blocks]

    def edges(self, candidates: int, *, cores: int) -> list[int]:
        """Return where a batch may be cut into shares, from 0 to the number of candidates."""
        return [0, *(part.stop for part in self._cut(candidates, cores)[0])]

    def _cut(self, candidates: int, cores: int) -> tuple[list[slice], list[slice]]:
        blocks, size = self.blocks, self.size
        cores = max(1, min(cores, candidates * blocks * size // max(1, self.least)))
        share = -(-candidates * blocks // cores)
        blocks_each = min(blocks, max(1, self.rows // size), share)
        parts = -(-blocks // blocks_each)
        each = max(1, min(self.rows // (size * blocks_each), -(-candidates * parts // cores)))
        return _cut_evenly(candidates, each), _cut_evenly(blocks, blocks_each)


def _cut_evenly(count: int, most: int) -> list[slice]:
    """Cut 0..count into parts of at most `most`, as equal as possible."""
    edges = np.linspace(0, count, -(-count // most) + 1).round().astype(int).tolist()
    return [slice(a, b) for a, b in pairwise(edges)]
