"""Compute the image tower FastViT-MCi in NumPy, for MLX's CPU device: pixels to unit-norm features.

The network is that of `clip.fastvit`. Images lie as [channels, columns, images, rows] here; see `cpu_convolutions`.
What adds or scales beside a product becomes part of its weights: the bias before an MLP, and the layer scales.

    features = CPUFastViT(clip.vision()).image_features(pixels)         # [B, H, W, 3] -> [B, D]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sharpzo_mlx.clip.activations import gelu, in_place
from sharpzo_mlx.clip.cpu_convolutions import CACHED, Array, Depthwise, Pointwise, chunks, squares
from sharpzo_mlx.clip.cpu_layers import affine, array, softmax
from sharpzo_mlx.clip.fastvit import SMALL, FastViTModel
from sharpzo_mlx.images.load import normalise
from sharpzo_mlx.runtime.products import host_products
from sharpzo_mlx.runtime.threads import spread, workers

if TYPE_CHECKING:
    from mlx import nn

    from sharpzo_mlx.clip import fastvit
    from sharpzo_mlx.clip.model import CLIPModel

IMAGES = 8  # of one piece of work at most: enough for long products where an image is small
_gelu = in_place(gelu)


def act(x: Array) -> Array:
    """Replace x [channels, ...] by its GELU, in place, and return it."""
    _gelu(x.reshape(len(x), -1))
    return x


class CPUFastViT:
    """The forward pass of the tower and its projection on the CPU.

    Args:
        model: a model with a FastViT as image tower.
    """

    def __init__(self, model: CLIPModel) -> None:
        tower = model.vision_model
        assert isinstance(tower, FastViTModel)
        config, stem = tower.config, tower.stem
        self.preprocessor = model.config.preprocessor
        self.expected = (config.image_size, config.image_size, config.num_channels)
        kernel = array(stem.first.weight).transpose(0, 3, 2, 1)  # out, channel, column, row
        self.first = Pointwise(kernel.reshape(len(kernel), -1), array(stem.first.bias))
        self.second, self.third = _depthwise(stem.spatial), _pointwise(stem.pointwise)
        self.stages = [_Stage(stage) for stage in tower.stages]
        self.last, self.squeeze = _depthwise(tower.final.spatial), _Squeeze(tower.final.squeeze)
        self.projection = affine(model.visual_projection)

    def image_features(self, pixels: Array) -> Array:
        """Return the features [B, D] (float32, unit norm) of pixels [B, H, W, channels], normalised or as bytes.

        Raises:
            ValueError: the pixels have another size than the checkpoint's.
        """
        if pixels.shape[1:] != self.expected:
            raise ValueError(f"pixels are {pixels.shape[1:]} an image, the image tower takes {self.expected}")
        each = max(1, min(IMAGES, -(-len(pixels) // workers())))
        return np.concatenate(spread(self._forward, [pixels[part] for part in chunks(len(pixels), each)]))

    @host_products()
    def _forward(self, pixels: Array) -> Array:
        if pixels.dtype == np.uint8:
            pixels = normalise(pixels, self.preprocessor)
        x = squares(pixels.transpose(3, 2, 0, 1).astype(np.float32), SMALL, 2)
        x = act(self.third(act(self.second(act(self.first(x))))))
        for stage in self.stages:
            x = stage(x)
        x = act(self.squeeze(self.last(x)))
        features = self.projection(np.ascontiguousarray(x.mean(axis=(1, 3)).T))
        features /= np.sqrt(np.einsum("ri,ri->r", features, features))[:, None]
        return features


class _Stage:
    def __init__(self, stage: fastvit.Stage) -> None:
        self.down = _Downsample(stage.downsample) if "downsample" in stage else None
        self.positions = _depthwise(stage.positions) if "positions" in stage else None
        self.mixers = [_Attention(block) if "attention" in block else _depthwise(block.mixer) for block in stage.blocks]
        self.mlps = [_MLP(block) for block in stage.blocks]

    def __call__(self, x: Array) -> Array:
        x = self.down(x) if self.down else x
        x = self.positions(x) if self.positions else x
        for mixer, mlp in zip(self.mixers, self.mlps, strict=True):
            x = mixer(x)
            mlp.add(x)
        return x


class _Downsample:
    def __init__(self, down: fastvit.Downsample) -> None:
        self.spatial, self.pointwise = _depthwise(down.spatial), _pointwise(down.pointwise)
        self.squeeze = _Squeeze(down.squeeze) if "squeeze" in down else None

    def __call__(self, x: Array) -> Array:
        x = self.spatial(x)
        return act(self.pointwise(act(self.squeeze(x) if self.squeeze else x)))


class _Squeeze:
    def __init__(self, squeeze: fastvit.SqueezeExcite) -> None:
        self.fc1, self.fc2 = affine(squeeze.fc1), affine(squeeze.fc2)

    def __call__(self, x: Array) -> Array:
        """Weigh the channels of x [c, W, p, H] in place."""
        means = np.ascontiguousarray(x.mean(axis=(1, 3)).T)  # [p, c]
        with np.errstate(over="ignore"):  # exp(big) is inf, and 1 / inf is 0
            weights = 1 / (1 + np.exp(-self.fc2(np.maximum(self.fc1(means), 0))))
        x *= weights.T[:, None, :, None]
        return x


class _MLP:
    """The MLP of a block; the bias before it, and the scale behind it, are part of its weights."""

    @host_products()
    def __init__(self, block: fastvit.Block) -> None:
        mlp, scale = block.mlp, array(block.mlp_scale)
        first, second = affine(mlp.fc1), affine(mlp.fc2)
        self.spatial = Depthwise(_by_column(mlp.spatial))
        self.fc1 = Pointwise(first.weight, first.bias + first.weight @ array(mlp.spatial.bias))
        self.fc2 = Pointwise(second.weight * scale[:, None], second.bias * scale)

    @host_products()
    def add(self, x: Array) -> None:
        """Add the MLP's result to x [c, W, p, H], a few pixels at a time."""
        seen, flat = self.spatial(x).reshape(len(x), -1), x.reshape(len(x), -1)
        for part in chunks(flat.shape[1], CACHED // len(self.fc1.weight)):
            changed = self.fc2(act(self.fc1(seen[:, part])))
            flat[:, part] += changed


class _Attention:
    """The attention of a block, with the scale behind it."""

    def __init__(self, block: fastvit.Block) -> None:
        attention, scale = block.attention, array(block.attention_scale)
        qkv, projection = affine(attention.qkv), affine(attention.proj)
        self.norm = affine(block.norm) if "norm" in block else None
        self.qkv = Pointwise(qkv.weight, qkv.bias)
        self.projection = Pointwise(projection.weight * scale[:, None], projection.bias * scale)
        self.head = attention.head

    @host_products()
    def __call__(self, x: Array) -> Array:
        """Add the attention of all positions of an image to x [c, W, p, H] in place, and return it."""
        c, columns, images, rows = x.shape
        split = self.qkv(self._normalise(x)).reshape(3, c // self.head, self.head, columns, images, rows)
        q, k, v = split.transpose(0, 4, 1, 3, 5, 2).reshape(3, images, -1, columns * rows, self.head)
        q *= np.float32(self.head**-0.5)
        mixed = softmax(q @ k.swapaxes(-1, -2)) @ v  # [p, heads, positions, head]
        lying = mixed.reshape(images, -1, columns, rows, self.head).transpose(1, 4, 2, 0, 3)
        x += self.projection(lying.reshape(x.shape))
        return x

    def _normalise(self, x: Array) -> Array:
        if self.norm is None:
            return x
        flat = np.ascontiguousarray(x.reshape(len(x), -1).T)
        return np.ascontiguousarray(self.norm.norm(flat, np.empty_like(flat)).T).reshape(x.shape)


def _depthwise(layer: fastvit.Depthwise) -> Depthwise:
    return Depthwise(_by_column(layer), array(layer.bias), layer.stride)


def _by_column(layer: fastvit.Depthwise) -> Array:
    """Return the kernels [channels, column, row]."""
    return array(layer.weight)[..., 0].transpose(0, 2, 1)


def _pointwise(layer: nn.Linear) -> Pointwise:
    found = affine(layer)
    return Pointwise(found.weight, found.bias)
