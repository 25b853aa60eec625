"""The rotary positions of a Perception Encoder's image tower: queries and keys are turned by their patch's place.

Two neighbouring numbers of a head are a complex number, which is multiplied by one of length 1. The first half of a
head is turned by the patch's column, the second by its row, counted from 1; the class token stays as it is (Bolya et
al., "Perception Encoder", arXiv 2504.13181; Su et al., "RoFormer", 2104.09864).

>>> turns(RotaryVisionConfig(hidden_size=8, num_attention_heads=1, image_size=16)).shape
(2, 4)
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from sharpzo_mlx.clip.layers import Attention, Encoder, Mask
from sharpzo_mlx.clip.tower_config import RotaryVisionConfig

BASE = 10000.0  # how much slower the last pair of an axis turns than the first


def turns(config: RotaryVisionConfig) -> npt.NDArray[np.complex64]:
    """Return the factor of each token and pair of numbers, [1 + patches, width / heads / 2], of length 1."""
    side, pairs = config.image_size // config.patch_size, config.hidden_size // config.num_attention_heads // 4
    speeds = BASE ** -(np.arange(pairs, dtype=np.float32) / np.float32(pairs))
    row, column = (1 + places.reshape(-1, 1) for places in np.mgrid[0:side, 0:side].astype(np.float32))
    angles = np.concatenate([column * speeds, row * speeds], axis=1)
    angles = np.concatenate([np.zeros_like(angles[:1]), angles])
    factors: npt.NDArray[np.complex64] = (np.cos(angles) + 1j * np.sin(angles)).astype(np.complex64)
    return factors


class RotaryAttention(Attention):
    """Self-attention whose queries and keys are turned.

    Args:
        width: of the states.
        heads: their number.
        cosines, sines: of the turns, [T, width / heads / 2]; no weights.
    """

    def __init__(self, width: int, heads: int, cosines: mx.array, sines: mx.array) -> None:
        super().__init__(width, heads)
        self._cosines, self._sines = cosines, sines

    def _turn(self, x: mx.array) -> mx.array:
        """Turn queries or keys [B, heads, T, d] in float32."""
        pairs = x.astype(mx.float32).reshape(*x.shape[:-1], -1, 2)
        first, second = pairs[..., 0], pairs[..., 1]
        turned = [first * self._cosines - second * self._sines, second * self._cosines + first * self._sines]
        return mx.stack(turned, axis=-1).reshape(x.shape).astype(x.dtype)

    def __call__(self, x: mx.array, mask: Mask = None) -> mx.array:
        """[B, T, width] -> [B, T, width]."""
        queries, keys, values = (self.heads(project(x)) for project in (self.q_proj, self.k_proj, self.v_proj))
        return self.attend(self._turn(queries), self._turn(keys), values, mask)


class RotaryEncoder(Encoder):
    """The stack of layers, all of which turn by the same angles."""

    def __init__(self, config: RotaryVisionConfig) -> None:
        super().__init__(config)
        factors = turns(config)
        cosines, sines = mx.array(factors.real), mx.array(factors.imag)
        for layer in self.layers:
            layer.self_attn = RotaryAttention(config.hidden_size, config.num_attention_heads, cosines, sines)
