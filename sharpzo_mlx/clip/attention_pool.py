"""The end of a SigLIP's image tower: one learned query that attends to all patches, and an MLP.

It takes the place of CLIP's class token (Zhai et al., arXiv 2303.15343; Lee et al., "Set Transformer", 1810.00825). The
query, the probe, is the same for every image. Attribute names are the checkpoint's key names; its packed map to
queries, keys and values is stored as three.

>>> AttentionPool(VisionConfig(hidden_size=48), heads=4)(mx.zeros((2, 9, 48))).shape
(2, 48)
"""

from __future__ import annotations

import mlx.core as mx
from mlx import nn

from sharpzo_mlx.clip.layers import MLP, Attention
from sharpzo_mlx.clip.tower_config import VisionConfig


class AttentionPool(nn.Module):
    """Attention of the probe over all patches, and a residual MLP."""

    def __init__(self, config: VisionConfig, heads: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.probe = mx.zeros((width,))
        self.attention = Attention(width, heads)
        self.layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = MLP(width, config.intermediate_size, config.hidden_act)

    def __call__(self, x: mx.array) -> mx.array:
        """[B, T, width] -> [B, width]."""
        attention = self.attention
        probe = mx.broadcast_to(attention.q_proj(self.probe), (x.shape[0], 1, x.shape[-1]))
        queries, keys, values = (attention.heads(y) for y in (probe, attention.k_proj(x), attention.v_proj(x)))
        pooled = attention.attend(queries, keys, values)[:, 0]
        return pooled + self.mlp(self.layernorm(pooled))
