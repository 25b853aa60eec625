"""Compute the ViT image towers in NumPy, for MLX's CPU device: pixels to unit-norm features.

The networks are those of `clip.vision`. Only the class token of CLIP's last layer is read (Radford et al., arXiv
2103.00020, section 2.4), so that layer computes one query and one row of the MLP for each image. The last layer of
towers with attention pooling is computed whole, and their pooling has one query. Each core takes a few images at a
time. `cpu_layers` says why NumPy is faster there.

    features = CPUVision(clip.vision()).image_features(pixels)         # [B, H, W, 3] -> [B, D]
"""

from __future__ import annotations

import numpy as np

from sharpzo_mlx.clip.activations import in_place
from sharpzo_mlx.clip.cpu_layers import ROWS, Array, Buffers, CPULayer, affine, array, cpu_layer, take_tokens
from sharpzo_mlx.clip.cpu_patches import CutPatches
from sharpzo_mlx.clip.cpu_pool import CPUPool
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.clip.rotary import turns
from sharpzo_mlx.clip.vision import PooledVisionModel, RotaryVisionModel, VisionModel
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
        assert isinstance(tower, VisionModel | PooledVisionModel | RotaryVisionModel), "a ResNet has no such layers"
        config, embeddings = tower.config, tower.embeddings
        self.preprocessor = model.config.preprocessor
        self.expected = (config.image_size, config.image_size, config.num_channels)
        self.cut = CutPatches(embeddings.patch_embedding)
        self.positions, self.last = array(embeddings.position_embedding.weight), affine(tower.post_layernorm)
        self.start = array(embeddings.class_embedding) if "class_embedding" in embeddings else None
        self.first = affine(tower.pre_layrnorm) if "pre_layrnorm" in tower else None
        self.pool = None if isinstance(tower, VisionModel) else CPUPool(tower.head)
        self.projection = affine(model.visual_projection) if "visual_projection" in model else None
        self.turns = turns(tower.config) if isinstance(tower, RotaryVisionModel) else None
        self.layers = [cpu_layer(layer) for layer in tower.encoder.layers]
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
        self._embed(buffers, self.cut(pixels))
        pooled = self._read_start(buffers, p) if self.pool is None else self._pool(buffers, p, self.pool)
        features = pooled if self.projection is None else self.projection(pooled)
        features /= np.sqrt(np.einsum("ri,ri->r", features, features))[:, None]
        return features

    def _embed(self, buffers: Buffers, patches: Array) -> None:
        """Write the tokens of patches [p, patches, m], with their positions and the first norm, to `buffers.x`."""
        x = buffers.y.reshape(len(patches), *self.positions.shape)
        if self.start is None:
            np.add(patches, self.positions, out=x)
        else:
            x[:, 0], x[:, 1:] = self.start, patches
            x += self.positions
        if self.first:
            self.first.norm(buffers.y, buffers.x)
        else:
            buffers.x, buffers.y = buffers.y, buffers.x

    def _read_start(self, buffers: Buffers, p: int) -> Array:
        """Return the class tokens [p, m] of p images' tokens."""
        for layer in self.layers[:-1]:
            self._run(layer, buffers, p)
        first = np.zeros(p, np.intp)
        self.layers[-1].attend(buffers, p, heads=self.heads, scale=self.scale, read=first)
        start = take_tokens(buffers.x, first)
        self.layers[-1].finish(start, buffers, self.act)
        return self.last.norm(start, np.empty_like(start))

    def _pool(self, buffers: Buffers, p: int, pool: CPUPool) -> Array:
        """Return the pooled states [p, m] of p images' tokens."""
        for layer in self.layers:
            self._run(layer, buffers, p)
        return pool(self.last.norm(buffers.x, buffers.y), p)

    def _run(self, layer: CPULayer, buffers: Buffers, p: int) -> None:
        """Apply a layer to all tokens of p images."""
        layer.attend(buffers, p, heads=self.heads, scale=self.scale, turns=self.turns)
        layer.finish(buffers.x, buffers, self.act)
