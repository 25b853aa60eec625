"""Compute the image tower FastViT-MCi in NumPy, for MLX's CPU device: pixels to unit-norm features.

The network is that of `clip.fastvit`. Images lie in tiles here, [channels, 4, 4, Y, X, images]; see `cpu_convolutions`.
What adds or scales beside a product becomes part of its weights: the bias before an MLP, and the layer scales.

    features = CPUFastViT(clip.vision()).image_features(pixels)         # [B, H, W, 3] -> [B, D]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sharpzo_mlx.clip.activations import gelu, in_place
from sharpzo_mlx.clip.cpu_convolutions import TILE, Array, Depthwise, Pointwise, chunks, clear, squares
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
HIDDEN = 1 << 17  # numbers of an MLP's middle at once: half a megabyte, so that they stay in the cache
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
        kernel = array(stem.first.weight).transpose(0, 3, 1, 2)  # out, channel, row, column
        self.first = Pointwise(kernel.reshape(len(kernel), -1), array(stem.first.bias))
        half = -(-config.image_size // 2)
        self.second, self.third = _depthwise(stem.spatial, half), _pointwise(stem.pointwise)
        self.side, self.stages = -(-half // 2), []
        for stage in tower.stages:
            self.stages.append(_Stage(stage, self.side))
            self.side = self.stages[-1].side
        self.last = _depthwise(tower.final.spatial, self.side)
        self.squeeze = _Squeeze(tower.final.squeeze, self.side)
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
        x = squares(pixels.transpose(3, 1, 2, 0), SMALL, 2)
        x = act(self.third(act(self.second(act(self.first(x))))))
        for stage in self.stages:
            x = stage(x)
        x = act(self.squeeze(self.last(x)))
        features = self.projection(_means(x, self.side))
        features /= np.sqrt(np.einsum("ri,ri->r", features, features))[:, None]
        return features


class _Stage:
    """A stage; `side` is that of the images that come in, afterwards that of those that go out."""

    def __init__(self, stage: fastvit.Stage, side: int) -> None:
        self.down = _Downsample(stage.downsample, side) if "downsample" in stage else None
        self.side = side = -(-side // 2) if self.down else side
        self.positions = _depthwise(stage.positions, side) if "positions" in stage else None
        self.mixers = [
            _Attention(block, side) if "attention" in block else _depthwise(block.mixer, side) for block in stage.blocks
        ]
        self.mlps = [_MLP(block, side) for block in stage.blocks]

    def __call__(self, x: Array) -> Array:
        x = self.down(x) if self.down else x
        x = self.positions(x) if self.positions else x
        spare = np.empty_like(x)  # new memory for every result would take a tenth of the time
        for mixer, mlp in zip(self.mixers, self.mlps, strict=True):
            if isinstance(mixer, _Attention):
                mixer.add(x)
            else:
                x, spare = mixer(x, spare), x
            mlp.add(x, spare)
        return x


class _Downsample:
    def __init__(self, down: fastvit.Downsample, side: int) -> None:
        self.spatial, self.pointwise = _depthwise(down.spatial, side), _pointwise(down.pointwise)
        self.squeeze = _Squeeze(down.squeeze, -(-side // 2)) if "squeeze" in down else None

    def __call__(self, x: Array) -> Array:
        x = self.spatial(x)
        return act(self.pointwise(act(self.squeeze(x) if self.squeeze else x)))


class _Squeeze:
    def __init__(self, squeeze: fastvit.SqueezeExcite, side: int) -> None:
        self.side = side
        self.fc1, self.fc2 = affine(squeeze.fc1), affine(squeeze.fc2)

    def __call__(self, x: Array) -> Array:
        """Weigh the channels of x [c, 4, 4, Y, X, p] in place."""
        means = _means(x, self.side)
        with np.errstate(over="ignore"):  # exp(big) is inf, and 1 / inf is 0
            weights = 1 / (1 + np.exp(-self.fc2(np.maximum(self.fc1(means), 0))))
        x *= weights.T[:, None, None, None, None]
        return x


class _MLP:
    """The MLP of a block; the bias before it, and the scale behind it, are part of its weights."""

    @host_products()
    def __init__(self, block: fastvit.Block, side: int) -> None:
        mlp, scale = block.mlp, array(block.mlp_scale)
        first, second = affine(mlp.fc1), affine(mlp.fc2)
        self.spatial = Depthwise(array(mlp.spatial.weight)[..., 0], side=side)
        self.fc1 = Pointwise(first.weight, first.bias + first.weight @ array(mlp.spatial.bias))
        self.fc2 = Pointwise(second.weight * scale[:, None], second.bias * scale)

    @host_products()
    def add(self, x: Array, spare: Array) -> None:
        """Add the MLP's result to x [c, 4, 4, Y, X, p], a few pixels at a time, and overwrite `spare`, of x's shape."""
        seen, flat = self.spatial(x, spare).reshape(len(x), -1), x.reshape(len(x), -1)
        parts = chunks(flat.shape[1], HIDDEN // len(self.fc1.weight))
        middle, changed = (np.empty(len(layer.weight) * parts[0].stop, np.float32) for layer in (self.fc1, self.fc2))
        for part in parts:
            n = part.stop - part.start
            hidden = act(self.fc1(seen[:, part], middle[: len(self.fc1.weight) * n].reshape(-1, n)))
            flat[:, part] += self.fc2(hidden, changed[: len(x) * n].reshape(-1, n))


class _Attention:
    """The attention of a block, with the scale behind it."""

    def __init__(self, block: fastvit.Block, side: int) -> None:
        attention, scale = block.attention, array(block.attention_scale)
        qkv, projection = affine(attention.qkv), affine(attention.proj)
        self.norm = affine(block.norm) if "norm" in block else None
        self.qkv = Pointwise(qkv.weight, qkv.bias)
        self.projection = Pointwise(projection.weight * scale[:, None], projection.bias * scale)
        self.head, self.inside = attention.head, _inside(side)

    @host_products()
    def add(self, x: Array) -> None:
        """Add the attention of all positions of an image to x [c, 4, 4, Y, X, p]."""
        c, images = len(x), x.shape[-1]
        flat = x.reshape(c, -1, images)[:, self.inside]  # the order of positions does not matter to attention
        split = self.qkv(self._normalise(flat)).reshape(3, c // self.head, self.head, -1, images)
        q, k, v = split.transpose(0, 4, 1, 3, 2)  # each [p, heads, positions, head]
        mixed = softmax((q * np.float32(self.head**-0.5)) @ k.swapaxes(-1, -2)) @ v
        lying = mixed.transpose(1, 3, 2, 0).reshape(flat.shape)
        x.reshape(c, -1, images)[:, self.inside] += self.projection(lying)

    def _normalise(self, x: Array) -> Array:
        if self.norm is None:
            return x
        flat = np.ascontiguousarray(x.reshape(len(x), -1).T)
        return np.ascontiguousarray(self.norm.norm(flat, np.empty_like(flat)).T).reshape(x.shape)


def _depthwise(layer: fastvit.Depthwise, side: int) -> Depthwise:
    return Depthwise(array(layer.weight)[..., 0], array(layer.bias), side=side, stride=layer.stride)


def _pointwise(layer: nn.Linear) -> Pointwise:
    found = affine(layer)
    return Pointwise(found.weight, found.bias)


def _means(x: Array, side: int) -> Array:
    """Return the mean of each image's channels: [c, 4, 4, Y, X, p] -> [p, c]; sets what is outside to zero."""
    clear(x, side)
    total = x.reshape(len(x), -1, x.shape[-1]).sum(axis=1)
    return np.ascontiguousarray(total.T) / np.float32(side * side)


def _inside(side: int) -> slice | Array:
    """Return which positions of a tiled image, counted as they lie, belong to an image of that side."""
    if side % TILE == 0:
        return slice(None)
    y, x = np.divmod(np.arange(side**2), side)
    tiles = -(-side // TILE)
    places = ((y % TILE * TILE + x % TILE) * tiles + y // TILE) * tiles + x // TILE
    return np.sort(places)
