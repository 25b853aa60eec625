"""Compute CLIP's ViT image tower in NumPy, for MLX's CPU device: pixels to unit-norm features.

The network is that of `clip.vision` (Radford et al., arXiv 2103.00020, section 2.4). Only the class token of the last
layer is read, so that layer computes one query and one row of the MLP for each image. Each core takes a few images at
a time. `cpu_layers` says why NumPy is faster there.

    features = CPUVision(clip.vision()).image_features(pixels)         # [B, H, W, 3] -> [B, D]
"""

from __future__ import annotations

import numpy as np

from sharpzo_mlx.clip.activations import in_place
from sharpzo_mlx.clip.cpu_layers import ROWS, Array, Buffers, CPULayer, affine, array, by_head, cpu_layer, softmax
from sharpzo_mlx.clip.cpu_patches import CutPatches
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.clip.vision import VisionModel
from sharpzo_mlx.images.load import normalise
from sharpzo_mlx.runtime.products import host_products
from sharpzo_mlx.runtime.threads import spread, workers


class CPUVision:
    """The forward pass of a ViT image tower and its projection on the CPU.

    Args:
        model: a model with its image tower; its float32 weights are shared, not copied.
    """

    def __init__(self, model: CLIPModel) -> None:
        tower = model.vision_model
        assert isinstance(tower, VisionModel), "a ResNet has no layers of this kind"
        config, embeddings = tower.config, tower.embeddings
        self.preprocessor = model.config.preprocessor
        self.expected = (config.image_size, config.image_size, config.num_channels)
        self.cut = CutPatches(embeddings.patch_embedding)
        self.start, self.positions = array(embeddings.class_embedding), array(embeddings.position_embedding.weight)
        self.first = affine(tower.pre_layrnorm) if "pre_layrnorm" in tower else None
        self.last = affine(tower.post_layernorm)
        self.layers = [cpu_layer(layer) for layer in tower.encoder.layers]
        self.projection = affine(model.visual_projection)
        layer = tower.encoder.layers[0]
        self.heads, self.scale = layer.self_attn.num_heads, np.float32(layer.self_attn.scale)
        self.act = in_place(layer.mlp.activation)

    def image_features(self, pixels: Array) -> Array:
        """Return the features [B, D] (float32, unit norm) of pixels [B, H, W, channels], normalised or as bytes.

        Raises:
            ValueError: the pixels have another size than the checkpoint's.
        """
        if pixels.shape[1:] != self.expected:
            raise ValueError(f"pixels are {pixels.shape[1:]} an image, the image tower takes {self.expected}")
        count, tokens = len(pixels), len(self.positions)
        each = max(1, min(ROWS // tokens, -(-count // workers())))
        parts = spread(self._forward, [pixels[start : start + each] for start in range(0, count, each)])
        return np.concatenate(parts)

    @host_products()
    def _forward(self, pixels: Array) -> Array:
        if pixels.dtype == np.uint8:
            pixels = normalise(pixels, self.preprocessor)
        p, (tokens, m) = len(pixels), self.positions.shape
        buffers = Buffers(p * tokens, m, self.layers[0].fc1.weight.shape[0])
        x = buffers.y.reshape(p, tokens, m)
        x[:, 0], x[:, 1:] = self.start, self.cut(pixels)
        x += self.positions
        if self.first:
            self.first.norm(buffers.y, buffers.x)
        else:
            buffers.x, buffers.y = buffers.y, buffers.x
        for layer in self.layers[:-1]:
            self._attend(layer, buffers, p, tokens)
            layer.finish(buffers.x, buffers, self.act)
        self._attend(self.layers[-1], buffers, p, 1)
        start = np.ascontiguousarray(buffers.x.reshape(p, tokens, m)[:, 0])
        self.layers[-1].finish(start, buffers, self.act)
        features = self.projection(self.last.norm(start, np.empty_like(start)))
        features /= np.sqrt(np.einsum("ri,ri->r", features, features))[:, None]
        return features

    @host_products()
    def _attend(self, layer: CPULayer, buffers: Buffers, p: int, rows: int) -> None:
        """Write the attention of the first `rows` tokens of each of p images to the first rows of `buffers.y`."""
        tokens, m = len(buffers.x) // p, buffers.x.shape[1]
        y = layer.norm1.norm(buffers.x, buffers.y)
        asked = y if rows == tokens else np.ascontiguousarray(y.reshape(p, tokens, m)[:, :rows]).reshape(-1, m)
        split = (layer.q(asked, buffers.q[: p * rows]), layer.k(y, buffers.k), layer.v(y, buffers.v))
        q, k, v = (by_head(part.reshape(p, -1, m), self.heads) for part in split)
        q *= self.scale
        np.matmul(
            softmax(q @ k.swapaxes(-1, -2)), v, out=by_head(buffers.y[: p * rows].reshape(p, rows, m), self.heads)
        )
