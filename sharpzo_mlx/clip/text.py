"""CLIP's text tower: it turns token ids, or embeddings in their place, into one vector a text.

Every position sees only itself and earlier positions, and only the end-of-text position is read. So positions beyond
the longest text of a batch are never computed, and a prompt can consist of vectors that belong to no token (SharpZO,
arXiv 2506.20990, section 3). A tower without the causal mask sees the padding, and gets all of it; a SigLIP's is read
at its last position.

>>> TextModel(TextConfig(hidden_size=64, num_hidden_layers=2))(mx.array([[49406, 320, 49407]])).shape
(1, 64)
"""

from __future__ import annotations

import mlx.core as mx
from mlx import nn

from sharpzo_mlx.clip.layers import Encoder
from sharpzo_mlx.clip.tower_config import LEGACY_EOS, TextConfig


class TextEmbeddings(nn.Module):
    """The token table and the position table."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)


class TextModel(nn.Module):
    """The text tower up to its pooled vector; `CLIPModel` projects it."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = TextEmbeddings(config)
        self.encoder = Encoder(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    @property
    def mask(self) -> str | None:
        """The mask of this tower's `Attention`."""
        return "causal" if self.config.causal else None

    def embed(self, input_ids: mx.array) -> mx.array:
        """Return the tokens' embeddings [B, T, width] of ids [B, T], without positions."""
        rows: mx.array = self.embeddings.token_embedding(input_ids)
        return rows

    def positions(self, length: int) -> mx.array:
        """Return the first `length` rows of the position table: [length, width]."""
        rows: mx.array = self.embeddings.position_embedding(mx.arange(length))
        return rows

    def eos_positions(self, input_ids: mx.array) -> mx.array:
        """Return the position where each text is read, by the checkpoint's own convention.

        Args:
            input_ids: [B, T].

        Returns:
            [B]: the first position of `eos_token_id`; where the config holds the legacy id 2, the first position of
                the largest id, as transformers reads such configs; in a SigLIP the last position.
        """
        if self.config.read_at_the_end:
            return mx.full((input_ids.shape[0],), input_ids.shape[1] - 1, dtype=mx.int32)
        if self.config.eos_token_id == LEGACY_EOS:
            return mx.argmax(input_ids, axis=-1)
        return mx.argmax((input_ids == self.config.eos_token_id).astype(mx.int32), axis=-1)

    def lengthen(self, input_ids: mx.array) -> mx.array:
        """Return token ids [B, T] with all the padding that a tower without a mask sees; unchanged for a causal one."""
        if self.config.causal:
            return input_ids
        missing = self.config.max_position_embeddings - input_ids.shape[1]
        return mx.pad(input_ids, [(0, 0), (0, missing)], constant_values=self.config.pad_token_id)

    def from_embeddings(self, x: mx.array, eos: mx.array) -> mx.array:
        """Return the pooled vectors of texts given as embeddings.

        Args:
            x: [B, T, width], without positions, T at most `max_position_embeddings`.
            eos: [B], the position of each text that is read.

        Returns:
            [B, width] in the weights' dtype.
        """
        x = x + self.positions(x.shape[1])
        x = self.encoder(x, self.mask)
        rows = mx.take_along_axis(x, eos.reshape(-1, 1, 1), axis=1).squeeze(1)
        # the norm works row by row, so only the rows that are read need it
        pooled: mx.array = self.final_layer_norm(rows)
        return pooled

    def __call__(self, input_ids: mx.array) -> mx.array:
        """Return the pooled vectors [B, width] of token ids [B, T] with start and end tokens."""
        input_ids = self.lengthen(input_ids)
        return self.from_embeddings(self.embed(input_ids), self.eos_positions(input_ids))
