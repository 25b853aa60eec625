"""The convolutional stem of MobileCLIP-B's ViT: three convolutions that cut an image into patches of 16 pixels.

Each convolution's stride is its size (4, 2 and 2 pixels), so that each is a product with squares that do not overlap
(Vasu et al., arXiv 2311.17049, section 4.1). GELU follows the first two.

>>> ConvStem(3, 48)(mx.zeros((1, 32, 32, 3))).shape
(1, 2, 2, 48)
"""

from __future__ import annotations

import mlx.core as mx
from mlx import nn

from sharpzo_mlx.clip.activations import gelu

SIZES = (4, 2, 2)  # pixels of a square's side


class ConvStem(nn.Module):
    """The stem; its batch norms are folded into the convolutions."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        widths = (channels, width // 4, width // 4, width)
        self.convolutions = [
            nn.Conv2d(before, after, size, stride=size)
            for before, after, size in zip(widths, widths[1:], SIZES, strict=False)
        ]

    @property
    def weight(self) -> mx.array:
        """The first convolution's weights, whose type pixels are cast to."""
        weight: mx.array = self.convolutions[0].weight
        return weight

    def __call__(self, pixels: mx.array) -> mx.array:
        """[B, H, W, channels] -> [B, H / 16, W / 16, width]."""
        first, second, last = self.convolutions
        patches: mx.array = last(gelu(second(gelu(first(pixels)))))
        return patches
