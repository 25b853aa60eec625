"""Cut images into patches and embed them in NumPy, for MLX's CPU device.

A convolution whose stride is its size is a product with squares that do not overlap; so is each of the three of
MobileCLIP-B's stem (`clip.conv_stem`).

    patches = CutPatches(tower.embeddings.patch_embedding)(pixels)     # [p, H, W, 3] -> [p, patches, m]
"""

from __future__ import annotations

import numpy as np
from mlx import nn

from sharpzo_mlx.clip.activations import gelu, in_place
from sharpzo_mlx.clip.conv_stem import ConvStem
from sharpzo_mlx.clip.cpu_layers import Array, array
from sharpzo_mlx.runtime.products import host_products

_gelu = in_place(gelu)


class CutPatches:
    """One convolution or a stem of several, with GELU between them.

    Args:
        embedding: the network's module; each of its convolutions has its size as stride.
    """

    def __init__(self, embedding: nn.Conv2d | ConvStem) -> None:
        convolutions = embedding.convolutions if isinstance(embedding, ConvStem) else [embedding]
        self.kernels = [array(one.weight) for one in convolutions]  # [out, side, side, in]
        self.biases = [array(one.bias) if "bias" in one else None for one in convolutions]

    @host_products()
    def __call__(self, pixels: Array) -> Array:
        """Embed pixels [p, H, W, channels] as [p, patches, m], row by row."""
        x = pixels
        for step, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            if step:
                _gelu(x.reshape(-1, x.shape[-1]))
            x = _cut(x, kernel.shape[1]) @ kernel.reshape(len(kernel), -1).T
            if bias is not None:
                x += bias
        return x.reshape(len(x), -1, x.shape[-1])


def _cut(x: Array, side: int) -> Array:
    """Cut into squares: [p, H, W, c] -> [p, H / side, W / side, side * side * c]."""
    p, height, width, channels = x.shape
    rows, columns = height // side, width // side
    grid = x[:, : rows * side, : columns * side].reshape(p, rows, side, columns, side, channels).swapaxes(2, 3)
    return np.ascontiguousarray(grid.reshape(p, rows, columns, -1), np.float32)
