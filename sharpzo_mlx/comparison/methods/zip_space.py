"""ZIP's space of contexts: few parameters, most of them shared by all tokens.

Token i has the short vector q_i = U_i diag(s) V^T + v. U_i [r] is its own; the diagonal s [r], the basis V [p, r] and
the row v [p] are shared by all tokens. A fixed random matrix per token maps q_i to what is added to its context vector
(Park et al., arXiv 2504.06838, section 4.1). U = 0 and v = 0 at the start, so that the search begins at zero-shot.

>>> space = ZipSpace(initial=mx.zeros((4, 8)), projection=mx.ones((32, 5)), rank=2)
>>> space.dimension, space.contexts(space.make_start(mx.random.key(0))[None]).shape
(25, (1, 4, 8))
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from sharpzo_mlx.prompts.space import PromptSpace


@dataclass(frozen=True)
class ZipSpace(PromptSpace):
    """Contexts p0 + R_i q_i(z); `projection` [n * m, p] holds the matrices R_i [m, p] of the tokens, one per token."""

    rank: int

    @property
    def dimension(self) -> int:
        """d, the length of z, which is U, s, V and v one after the other."""
        return int(self.initial.shape[0]) * self.rank + self.rank + self.features * (self.rank + 1)

    @property
    def features(self) -> int:
        """p, the length of q_i."""
        return int(self.projection.shape[1])

    def make_start(self, key: mx.array) -> mx.array:
        """Return the first z [d], with U = 0, s = 1, V ~ N(0, 1) and v = 0; its contexts are exactly p0."""
        own = int(self.initial.shape[0]) * self.rank
        basis = mx.random.normal((self.features * self.rank,), key=key)
        return mx.concatenate([mx.zeros(own), mx.ones(self.rank), basis, mx.zeros(self.features)])

    def contexts(self, w: mx.array) -> mx.array:
        """Return the contexts [P, n, m] of a batch of vectors z [P, d]."""
        n, m = self.initial.shape
        ends = [n * self.rank, (n + 1) * self.rank, (n + 1 + self.features) * self.rank]
        own, diagonal, basis, shared = mx.split(w, ends, axis=1)
        own = own.reshape(-1, n, self.rank) * diagonal[:, None]  # U diag(s)
        q = own @ basis.reshape(-1, self.features, self.rank).swapaxes(1, 2) + shared[:, None]  # [P, n, p]
        each = self.projection.reshape(n, m, self.features).swapaxes(1, 2)  # [n, p, m]
        return self.initial + (q.swapaxes(0, 1) @ each).swapaxes(0, 1)
