"""Compute class features in NumPy where every token sees all others; the savings are those of `full_text`.

The work is cut into pieces of some candidates and some classes. One core carries a piece through all layers, in buffers
that fit its cache, as in `shared_prefix_cpu`. There are no derivatives here: they are taken of the graph.

    text = FullTextCPU(layers, (final_layer_norm, projection), prompts)
    features = text.class_features(contexts)        # [P, n, m] -> [P, K, D], unit norm
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from mlx import nn

from sharpzo_mlx.clip.cpu_layers import Array, array
from sharpzo_mlx.clip.cpu_text import CPUText
from sharpzo_mlx.prompts.cpu_pieces import PiecePlan, PieceSizes, Share
from sharpzo_mlx.runtime.threads import spread

if TYPE_CHECKING:
    from sharpzo_mlx.clip.layers import EncoderLayer
    from sharpzo_mlx.prompts.embedded_prompts import EmbeddedPrompts


class FullTextCPU:
    """The forward pass of a text tower without a mask on the CPU, specialised to one set of prompts.

    Args:
        layers: the tower's layers.
        head: the final layer norm and the projection.
        prompts: the embeddings around the context.
    """

    def __init__(
        self, layers: Sequence[EncoderLayer], head: tuple[nn.LayerNorm, nn.Linear], prompts: EmbeddedPrompts
    ) -> None:
        self.tower = CPUText(layers, head)
        self.start, self.positions = array(prompts.start), array(prompts.context)
        self.words, self.padding = array(prompts.words), array(prompts.padding)
        self.read = np.array(prompts.read)
        lengths = (len(self.start), len(self.positions), self.words.shape[1], len(self.padding))
        self.cuts = np.cumsum(lengths)  # where start, context, words and padding end
        self.length = int(self.cuts[-1])

    def class_features(self, contexts: Array, share: Share | None = None) -> Array:
        """Return the features of every class under every context, [P, n, m] -> [P, K, D] float32 of unit norm.

        With a share of the contexts, those under its contexts alone, to the same bits.
        """
        start, stop = (0, len(contexts)) if share is None else (share.start, share.stop)
        features = np.empty((stop - start, len(self.words), self.tower.projection.weight.shape[0]), np.float32)

        def compute_piece(place: tuple[slice, slice]) -> None:
            rows = slice(place[0].start - start, place[0].stop - start)
            features[rows, place[1]] = self._run_piece(contexts[place[0]], place[1])

        spread(compute_piece, self.plan.pieces(len(contexts), share))
        return features

    @property
    def plan(self) -> PiecePlan:
        """How the work is cut."""
        return PiecePlan.of(len(self.words), self.length, width=self.tower.width, layers=len(self.tower.layers))

    @property
    def piece_sizes(self) -> PieceSizes:
        """The sizes that the memory of a piece follows from."""
        tower = self.tower
        return PieceSizes(self.plan.rows, self.length, 0, tower.width, tower.hidden, tower.heads)

    def _run_piece(self, contexts: Array, classes: slice) -> Array:
        """Return the features [p, k, D] of these classes under contexts [p, n, m]."""
        words, read = self.words[classes], self.read[classes]
        p, k, (start, context, end, _) = len(contexts), len(words), self.cuts

        def fill(x: Array) -> None:
            x = x.reshape(p, k, *x.shape[1:])
            x[:, :, :start] = self.start
            x[:, :, start:context] = (contexts + self.positions)[:, None]
            x[:, :, context:end] = words
            x[:, :, end:] = self.padding

        return self.tower.features(fill, np.tile(read, p), self.length).reshape(p, k, -1)
