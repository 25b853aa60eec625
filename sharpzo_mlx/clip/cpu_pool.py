"""Compute a SigLIP's attention pooling in NumPy; the network is that of `clip.attention_pool`.

pool = CPUPool(tower.head)
features = pool(states, images)        # [images * T, m] -> [images, m]
"""

from __future__ import annotations

import numpy as np

from sharpzo_mlx.clip.activations import in_place
from sharpzo_mlx.clip.attention_pool import AttentionPool
from sharpzo_mlx.clip.cpu_layers import Array, affine, array, softmax
from sharpzo_mlx.runtime.products import host_products


class CPUPool:
    """The weights of an attention pooling, with the query that all images share.

    Args:
        pool: the module; its float32 weights are shared, not copied.
    """

    def __init__(self, pool: AttentionPool) -> None:
        attention = pool.attention
        self.heads = attention.num_heads
        query = affine(attention.q_proj)(array(pool.probe)[None])[0] * np.float32(attention.scale)
        # the query is known, so scores come from states at once; the keys' bias shifts all of them and drops out
        keys = affine(attention.k_proj).weight.reshape(self.heads, -1, len(query))  # [H, h, m]
        self.scorer = np.einsum("hd,hdm->mh", query.reshape(self.heads, -1), keys)
        self.v, self.out = affine(attention.v_proj), affine(attention.out_proj)
        self.norm, self.fc1, self.fc2 = affine(pool.layernorm), affine(pool.mlp.fc1), affine(pool.mlp.fc2)
        self.act = in_place(pool.mlp.activation)

    @host_products()
    def __call__(self, states: Array, images: int) -> Array:
        """Return the pooled states [images, m] of normalised states [images * T, m]."""
        m = states.shape[1]
        scores = np.ascontiguousarray((states @ self.scorer).reshape(images, -1, self.heads).swapaxes(1, 2))
        mixed = softmax(scores) @ states.reshape(images, -1, m)  # [images, H, m]
        values = self.v.weight.reshape(self.heads, -1, m).swapaxes(1, 2)  # [H, m, h]
        pooled = (mixed.swapaxes(0, 1) @ values).swapaxes(0, 1).reshape(images, m)
        if self.v.bias is not None:
            pooled += self.v.bias
        pooled = self.out(pooled)
        hidden = self.fc1(self.norm.norm(pooled, np.empty_like(pooled)))
        self.act(hidden)
        pooled += self.fc2(hidden)
        return pooled
