"""The ViT image towers in `Operations`, of CLIP, SigLIP, MobileCLIP-B and PE-Core: pixels become one vector an image.

The networks are those of `clip.vision`, `clip.conv_stem`, `clip.rotary` and `clip.attention_pool`. The scale of the
attention is part of the queries' weights; the query of a pooling is the same for all images, and is computed here.

>>> vector = pooled_vision(ops, pixels, tower.config, tower.weights.at("vision_model"))  # doctest: +SKIP
"""

from __future__ import annotations

import numpy as np

from sharpzo_mlx.clip.rotary import turns
from sharpzo_mlx.clip.tower_config import ConvStemConfig, RotaryVisionConfig, SigLIPVisionConfig, VisionConfig
from sharpzo_mlx.exporting.operations import Array, Operations, Value
from sharpzo_mlx.exporting.tower import Weights


def pooled_vision(ops: Operations, pixels: Value, config: VisionConfig, weights: Weights) -> Value:
    """Return the vector that is projected, [N, 3, H, W] -> [N, m]."""
    x = _embed(ops, pixels, config, weights.at("embeddings"))
    if "pre_layrnorm" in weights:
        x = norm(ops, x, weights.at("pre_layrnorm"), config.layer_norm_eps)
    for layer in range(config.num_hidden_layers):
        x = _layer(ops, x, config, weights.at(f"encoder.layers.{layer}"))
    if isinstance(config, SigLIPVisionConfig | RotaryVisionConfig):
        x = norm(ops, x, weights.at("post_layernorm"), config.layer_norm_eps)
        return _pool(ops, x, config, weights.at("head"))
    return norm(ops, ops.first(x), weights.at("post_layernorm"), config.layer_norm_eps)


def norm(ops: Operations, x: Value, weights: Weights, eps: float) -> Value:
    """Return the layer norm of the last axis."""
    return ops.layer_norm(x, weights["weight"], weights["bias"], eps)


def linear(ops: Operations, x: Value, weights: Weights) -> Value:
    """Return a linear layer of the last axis."""
    return ops.linear(x, weights["weight"], weights.get("bias"))


def attend(ops: Operations, parts: tuple[Value, Value, Value], tokens: int, heads: int, width: int) -> Value:
    """Return the attention of tokens over all tokens of their image, the heads side by side.

    Args:
        ops: the format.
        parts: queries, times the scale, keys and values, [N, T, width] each.
        tokens: T.
        heads: heads of `width / heads` numbers.
        width: of all heads together.
    """
    split = (-1, tokens, heads, width // heads)
    queries, keys, values = (ops.reshape(part, split) for part in parts)
    scores = ops.matmul(ops.transpose(queries, (0, 2, 1, 3)), ops.transpose(keys, (0, 2, 3, 1)))
    mixed = ops.matmul(ops.softmax(scores), ops.transpose(values, (0, 2, 1, 3)))
    return ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), (-1, tokens, width))


def _embed(ops: Operations, pixels: Value, config: VisionConfig, weights: Weights) -> Value:
    """Return the tokens of pictures with their positions."""
    positions, width = weights["position_embedding.weight"], config.hidden_size
    patches = _cut(ops, pixels, config, weights.at("patch_embedding"))
    start = weights.get("class_embedding")
    count = len(positions) - (start is not None)
    tokens = ops.transpose(ops.reshape(patches, (-1, width, count)), (0, 2, 1))
    if start is None:
        return ops.add(tokens, positions)
    positions = np.concatenate([positions[:1] + start, positions[1:]])  # the class token is the same for all images
    return ops.add(ops.put_zeros_first(tokens), positions)


def _cut(ops: Operations, x: Value, config: VisionConfig, weights: Weights) -> Value:
    """Return the embedded patches [N, m, rows, columns]; a stem has several convolutions with GELU between them."""
    stem = isinstance(config, ConvStemConfig)
    steps = [weights.at(f"convolutions.{step}") for step in range(3)] if stem else [weights]
    for step, one in enumerate(steps):
        kernel = one["weight"]
        x = ops.activate(x, "gelu") if step else x
        x = ops.convolve(x, kernel, one.get("bias"), stride=kernel.shape[1], padding=0, groups=1)
    return x


def _layer(ops: Operations, x: Value, config: VisionConfig, weights: Weights) -> Value:
    """Return the tokens behind one pre-norm layer."""
    heads, width, attention = config.num_attention_heads, config.hidden_size, weights.at("self_attn")
    y = norm(ops, x, weights.at("layer_norm1"), config.layer_norm_eps)
    scale = np.float32((width // heads) ** -0.5)
    query, bias = attention["q_proj.weight"] * scale, attention["q_proj.bias"] * scale
    queries, keys = ops.linear(y, query, bias), linear(ops, y, attention.at("k_proj"))
    if isinstance(config, RotaryVisionConfig):
        queries, keys = _turn(ops, queries, config), _turn(ops, keys, config)
    parts = queries, keys, linear(ops, y, attention.at("v_proj"))
    mixed = attend(ops, parts, config.positions, heads, width)
    x = ops.add(x, linear(ops, mixed, attention.at("out_proj")))
    return ops.add(x, _mlp(ops, norm(ops, x, weights.at("layer_norm2"), config.layer_norm_eps), config, weights))


def _turn(ops: Operations, x: Value, config: RotaryVisionConfig) -> Value:
    """Return queries or keys [N, T, m], turned by their places."""
    heads, head = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    factors = np.repeat(turns(config), 2, axis=1)[:, None]  # [T, 1, head]
    partner = np.zeros((head, head), np.float32)  # (a, b) -> (-b, a)
    even = np.arange(0, head, 2)
    partner[even, even + 1], partner[even + 1, even] = -1, 1
    x = ops.reshape(x, (-1, config.positions, heads, head))
    cosines, sines = (np.ascontiguousarray(part) for part in (factors.real, factors.imag))
    turned = ops.add(ops.multiply(x, cosines), ops.multiply(ops.linear(x, partner, None), sines))
    return ops.reshape(turned, (-1, config.positions, config.hidden_size))


def _mlp(ops: Operations, x: Value, config: VisionConfig, weights: Weights) -> Value:
    hidden = ops.activate(linear(ops, x, weights.at("mlp.fc1")), config.hidden_act)
    return linear(ops, hidden, weights.at("mlp.fc2"))


def _pool(ops: Operations, x: Value, config: SigLIPVisionConfig | RotaryVisionConfig, weights: Weights) -> Value:
    """Return the attention of the probe over all patches, with its MLP, [N, T, m] -> [N, m]."""
    attention, width = weights.at("attention"), config.hidden_size
    heads = config.num_pooling_heads if isinstance(config, RotaryVisionConfig) else config.num_attention_heads
    split = (-1, config.positions, heads, width // heads)
    keys, values = (ops.reshape(linear(ops, x, attention.at(name)), split) for name in ("k_proj", "v_proj"))
    scores = ops.matmul(_probe(attention, weights["probe"], heads), ops.transpose(keys, (0, 2, 3, 1)))
    mixed = ops.matmul(ops.softmax(scores), ops.transpose(values, (0, 2, 1, 3)))  # [N, heads, 1, m / heads]
    pooled = linear(ops, ops.reshape(mixed, (-1, width)), attention.at("out_proj"))
    return ops.add(
        pooled, _mlp(ops, norm(ops, pooled, weights.at("layernorm"), config.layer_norm_eps), config, weights)
    )


def _probe(attention: Weights, probe: Array, heads: int) -> Array:
    """Return the query of all images, times the scale, [1, heads, 1, m / heads]."""
    query = attention["q_proj.weight"] @ probe + attention["q_proj.bias"]
    split: Array = (query * np.float32((len(query) // heads) ** -0.5)).reshape(1, heads, 1, -1)
    return split
