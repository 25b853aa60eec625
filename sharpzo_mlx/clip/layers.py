"""The transformer of both of CLIP's towers: attention, MLP, layer, stack.

Attribute names are the checkpoint's key names, so a weight's name is its place. `Attention` is split into its
projections (`heads`) and the product (`attend`), so that `prompts.shared_prefix` can share keys and values between many
sequences without a second implementation.

>>> Encoder(TextConfig(hidden_size=64, num_hidden_layers=2))(mx.zeros((1, 5, 64))).shape
(1, 5, 64)
"""

from __future__ import annotations

from functools import partial

import mlx.core as mx
from mlx import nn

from sharpzo_mlx.clip.activations import activation
from sharpzo_mlx.clip.tower_config import TextConfig, VisionConfig

Mask = mx.array | str | None


class Attention(nn.Module):
    """Multi-head self-attention; the softmax is computed in float32 whatever the weights' dtype."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.scale = (width // heads) ** -0.5
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def heads(self, projected: mx.array) -> mx.array:
        """Split by heads: [B, T, width] -> [B, heads, T, width / heads]."""
        batch, length, _ = projected.shape
        return projected.reshape(batch, length, self.num_heads, -1).transpose(0, 2, 1, 3)

    def attend(self, queries: mx.array, keys: mx.array, values: mx.array, mask: Mask = None) -> mx.array:
        """Return the attention's weighted values, projected back.

        Args:
            queries: [B, heads, T, d].
            keys, values: [B, heads, S, d], S >= T.
            mask: None, "causal" (the last query sees the last key), or an additive or boolean array that broadcasts
                to [B, heads, T, S].

        Returns:
            [B, T, width].
        """
        mixed = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=self.scale, mask=mask)
        batch, _, length, _ = mixed.shape
        return self.out_proj(mixed.transpose(0, 2, 1, 3).reshape(batch, length, -1))

    def __call__(self, x: mx.array, mask: Mask = None) -> mx.array:
        """[B, T, width] -> [B, T, width]."""
        queries, keys, values = (self.heads(project(x)) for project in (self.q_proj, self.k_proj, self.v_proj))
        return self.attend(queries, keys, values, mask)


class MLP(nn.Module):
    """Two linear maps with the checkpoint's activation between them."""

    def __init__(self, width: int, intermediate: int, hidden_act: str) -> None:
        super().__init__()
        self.activation = activation(hidden_act)
        self.fc1 = nn.Linear(width, intermediate)
        self.fc2 = nn.Linear(intermediate, width)

    def __call__(self, x: mx.array) -> mx.array:
        """[..., width] -> [..., width]."""
        return self.fc2(self.activation(self.fc1(x)))


class EncoderLayer(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, width: int, heads: int, *, intermediate: int, hidden_act: str, eps: float) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.layer_norm1 = nn.LayerNorm(width, eps=eps)
        self.mlp = MLP(width, intermediate, hidden_act)
        self.layer_norm2 = nn.LayerNorm(width, eps=eps)

    def __call__(self, x: mx.array, mask: Mask = None) -> mx.array:
        """[B, T, width] -> [B, T, width]."""
        x = x + self.self_attn(self.layer_norm1(x), mask)
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nn.Module):
    """The stack of layers of either tower."""

    def __init__(self, config: TextConfig | VisionConfig) -> None:
        super().__init__()
        make = partial(
            EncoderLayer,
            config.hidden_size,
            config.num_attention_heads,
            intermediate=config.intermediate_size,
            hidden_act=config.hidden_act,
            eps=config.layer_norm_eps,
        )
        self.layers = [make() for _ in range(config.num_hidden_layers)]

    def __call__(self, x: mx.array, mask: Mask = None) -> mx.array:
        """[B, T, width] -> [B, T, width]."""
        for layer in self.layers:
            x = layer(x, mask)
        return x
