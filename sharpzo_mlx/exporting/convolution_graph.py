"""The convolutional image towers in `Operations`: CLIP's ResNet and MobileCLIP's FastViT, one vector an image.

The networks are those of `clip.resnet` and `clip.fastvit`. Batch norms become part of the convolutions before them, and
layer scales part of the linear layers before them. Linear layers of the channels are convolutions of one pixel.

>>> vector = pooled_resnet(ops, pixels, tower.config, tower.weights.at("vision_model"))  # doctest: +SKIP
"""

from __future__ import annotations

import numpy as np

from sharpzo_mlx.clip.fastvit_config import FastViTConfig
from sharpzo_mlx.clip.tower_config import ResNetConfig
from sharpzo_mlx.exporting.operations import Array, Operations, Value
from sharpzo_mlx.exporting.tower import Weights
from sharpzo_mlx.exporting.transformer_graph import attend, linear, norm


def pooled_resnet(ops: Operations, pixels: Value, config: ResNetConfig, weights: Weights) -> Value:
    """Return the vector that is projected, [N, 3, H, W] -> [N, m]."""
    x = pixels
    for number in (1, 2, 3):
        x = _normed(ops, x, weights, f"conv{number}", f"bn{number}", config, stride=2 if number == 1 else 1)
        x = ops.activate(x, "relu")
    x = ops.average_pool(x, 2)
    for stage, blocks in enumerate(config.layers):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            x = _bottleneck(ops, x, config, weights.at(f"layer{stage + 1}.{block}"), stride)
    return _attention_pool(ops, x, config, weights.at("attnpool"))


def _bottleneck(ops: Operations, x: Value, config: ResNetConfig, weights: Weights, stride: int) -> Value:
    y = ops.activate(_normed(ops, x, weights, "conv1", "bn1", config), "relu")
    y = ops.activate(_normed(ops, y, weights, "conv2", "bn2", config), "relu")
    y = _normed(ops, _average(ops, y, stride), weights, "conv3", "bn3", config)
    if "downsample" in weights:
        x = _normed(ops, _average(ops, x, stride), weights, "downsample.0", "downsample.1", config)
    return ops.activate(ops.add(x, y), "relu")


def _normed(
    ops: Operations, x: Value, weights: Weights, kernel: str, norm: str, config: ResNetConfig, *, stride: int = 1
) -> Value:
    """Return a convolution and the batch norm behind it, as one convolution."""
    statistics, taps = weights.at(norm), weights[f"{kernel}.weight"]
    factor = statistics["weight"] / np.sqrt(statistics["running_var"] + np.float32(config.batch_norm_eps))
    bias = statistics["bias"] - statistics["running_mean"] * factor
    folded = taps * factor[:, None, None, None]
    return ops.convolve(x, folded, bias, stride=stride, padding=taps.shape[1] // 2, groups=1)


def _average(ops: Operations, x: Value, size: int) -> Value:
    return x if size == 1 else ops.average_pool(x, size)


def _attention_pool(ops: Operations, x: Value, config: ResNetConfig, weights: Weights) -> Value:
    """Return the attention of the mean of all positions over itself and them, [N, m, H, W] -> [N, m]."""
    width, heads, count = config.hidden_size, config.num_attention_heads, config.positions - 1
    x = ops.transpose(ops.reshape(x, (-1, width, count)), (0, 2, 1))
    x = ops.add(ops.join(ops.mean(x, (1,), keep=True), x), weights["positional_embedding"])
    scale = np.float32((width // heads) ** -0.5)
    query = ops.linear(ops.first(x), weights["q_proj.weight"] * scale, weights["q_proj.bias"] * scale)
    keys, values = (
        ops.reshape(linear(ops, x, weights.at(name)), (-1, count + 1, heads, width // heads))
        for name in ("k_proj", "v_proj")
    )
    scores = ops.matmul(ops.reshape(query, (-1, heads, 1, width // heads)), ops.transpose(keys, (0, 2, 3, 1)))
    mixed = ops.matmul(ops.softmax(scores), ops.transpose(values, (0, 2, 1, 3)))
    return ops.reshape(mixed, (-1, width))


def pooled_fastvit(ops: Operations, pixels: Value, config: FastViTConfig, weights: Weights) -> Value:
    """Return the vector that is projected, [N, 3, H, W] -> [N, m]."""
    stem = weights.at("stem")
    first = stem["first.weight"]
    x = ops.convolve(pixels, first, stem["first.bias"], stride=2, padding=first.shape[1] // 2, groups=1)
    x = _depthwise(ops, ops.activate(x, "gelu"), stem.at("spatial"), stride=2)
    x = ops.activate(_pointwise(ops, ops.activate(x, "gelu"), stem.at("pointwise")), "gelu")
    side = -(-config.image_size // 4)
    for stage in range(len(config.layers)):
        side = -(-side // 2) if stage else side
        x = _stage(ops, x, config, weights.at(f"stages.{stage}"), stage=stage, side=side)
    x = _depthwise(ops, x, weights.at("final.spatial"), groups=config.widths[-1])
    x = ops.activate(_squeeze(ops, x, weights.at("final.squeeze")), "gelu")
    return ops.mean(x, (2, 3), keep=False)


def _stage(ops: Operations, x: Value, config: FastViTConfig, weights: Weights, *, stage: int, side: int) -> Value:
    if "downsample" in weights:
        down = weights.at("downsample")
        x = _depthwise(ops, x, down.at("spatial"), stride=2, groups=config.widths[stage - 1])
        x = _squeeze(ops, x, down.at("squeeze")) if "squeeze" in down else x
        x = ops.activate(_pointwise(ops, ops.activate(x, "gelu"), down.at("pointwise")), "gelu")
    if "positions" in weights:
        x = _depthwise(ops, x, weights.at("positions"))
    for block in range(config.layers[stage]):
        x = _block(ops, x, config, weights.at(f"blocks.{block}"), width=config.widths[stage], side=side)
    return x


def _block(ops: Operations, x: Value, config: FastViTConfig, weights: Weights, *, width: int, side: int) -> Value:
    if "attention" in weights:
        x = ops.add(x, _attention(ops, x, config, weights, width=width, side=side))
    else:
        x = _depthwise(ops, x, weights.at("mixer"))
    mlp, scale = weights.at("mlp"), weights["mlp_scale"]
    hidden = ops.activate(_pointwise(ops, _depthwise(ops, x, mlp.at("spatial")), mlp.at("fc1")), "gelu")
    return ops.add(x, _pointwise(ops, hidden, mlp.at("fc2"), scale))


def _attention(ops: Operations, x: Value, config: FastViTConfig, weights: Weights, *, width: int, side: int) -> Value:
    """Return the scaled attention of all positions of pictures [N, width, side, side]; the shape stays."""
    inner, scale = weights.at("attention"), weights["attention_scale"]
    tokens = ops.transpose(ops.reshape(x, (-1, width, side * side)), (0, 2, 1))
    if "norm" in weights:
        tokens = norm(ops, tokens, weights.at("norm"), config.layer_norm_eps)
    packed, bias = inner["qkv.weight"].copy(), inner.get("qkv.bias")
    packed[:width] *= np.float32(config.head_width**-0.5)
    biases: list[Array | None] = [None] * 3
    if bias is not None:
        query, key, value = np.split(bias, 3)
        biases = [query * np.float32(config.head_width**-0.5), key, value]
    q, k, v = (ops.linear(tokens, part, own) for part, own in zip(np.split(packed, 3), biases, strict=True))
    mixed = attend(ops, (q, k, v), side * side, width // config.head_width, width)
    changed = ops.linear(mixed, inner["proj.weight"] * scale[:, None], inner["proj.bias"] * scale)
    return ops.reshape(ops.transpose(changed, (0, 2, 1)), (-1, width, side, side))


def _squeeze(ops: Operations, x: Value, weights: Weights) -> Value:
    """Weigh channels by a small network of their means."""
    middle = ops.activate(_pointwise(ops, ops.mean(x, (2, 3), keep=True), weights.at("fc1")), "relu")
    return ops.multiply(x, ops.activate(_pointwise(ops, middle, weights.at("fc2")), "sigmoid"))


def _depthwise(ops: Operations, x: Value, weights: Weights, *, stride: int = 1, groups: int | None = None) -> Value:
    """Return a convolution of each channel by itself; fewer groups than kernels repeat the channels."""
    kernel = weights["weight"]
    groups = groups or len(kernel)
    return ops.convolve(x, kernel, weights["bias"], stride=stride, padding=kernel.shape[1] // 2, groups=groups)


def _pointwise(ops: Operations, x: Value, weights: Weights, scale: Array | None = None) -> Value:
    """Return a linear layer of the channels, times a scale of each result."""
    weight, bias = weights["weight"], weights["bias"]
    if scale is not None:
        weight, bias = weight * scale[:, None], bias * scale
    return ops.convolve(x, weight[:, None, None, :], bias, stride=1, padding=0, groups=1)
