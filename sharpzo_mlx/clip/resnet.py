"""CLIP's modified ResNet as image tower: it turns prepared pixels into one vector an image (RN50, RN101, RN50x4).

It differs from the usual ResNet in three places (Radford et al., arXiv 2103.00020, section 2.4): the stem has three
convolutions; average pooling stands before each convolution that would otherwise have a stride; and attention replaces
the last average, with the mean of all positions as its only query. The attribute tree is the checkpoint's key tree;
the last product of the pooling is `CLIPModel.visual_projection`.

>>> ResNetModel(ResNetConfig(layers=(1, 1, 1, 1), width=8, num_attention_heads=4))(mx.zeros((1, 224, 224, 3))).shape
(1, 256)
"""

from __future__ import annotations

import mlx.core as mx
from mlx import nn

from sharpzo_mlx.clip.tower_config import ResNetConfig

EXPANSION = 4  # channels behind a block, as a multiple of those within


class BatchNorm(nn.Module):
    """Batch normalisation with the statistics of training: one factor and one summand for each channel."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = mx.ones((channels,))
        self.bias = mx.zeros((channels,))
        self.running_mean = mx.zeros((channels,))
        self.running_var = mx.ones((channels,))

    def __call__(self, x: mx.array) -> mx.array:
        """Normalise [B, H, W, channels]; the shape stays."""
        factor = self.weight * mx.rsqrt(self.running_var + self.eps)
        return x * factor + (self.bias - self.running_mean * factor)


class Bottleneck(nn.Module):
    """One residual block: 1 x 1, 3 x 3, average over `stride`, 1 x 1."""

    def __init__(self, before: int, within: int, stride: int, eps: float) -> None:
        super().__init__()
        after = within * EXPANSION
        self.stride = stride
        self.conv1 = nn.Conv2d(before, within, 1, bias=False)
        self.bn1 = BatchNorm(within, eps)
        self.conv2 = nn.Conv2d(within, within, 3, padding=1, bias=False)
        self.bn2 = BatchNorm(within, eps)
        self.conv3 = nn.Conv2d(within, after, 1, bias=False)
        self.bn3 = BatchNorm(after, eps)
        if stride > 1 or before != after:
            self.downsample = [nn.Conv2d(before, after, 1, bias=False), BatchNorm(after, eps)]

    def __call__(self, x: mx.array) -> mx.array:
        """[B, H, W, before] -> [B, H / stride, W / stride, after]."""
        y = nn.relu(self.bn1(self.conv1(x)))
        y = nn.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(average(y, self.stride)))
        if "downsample" in self:
            convolution, norm = self.downsample
            x = norm(convolution(average(x, self.stride)))
        summed: mx.array = nn.relu(x + y)
        return summed


class AttentionPool(nn.Module):
    """Attention of the mean token over itself and all positions; `CLIPModel` holds the output product."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.positional_embedding = mx.zeros((config.positions, width))
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)

    def __call__(self, x: mx.array) -> mx.array:
        """[B, H, W, width] -> [B, width]."""
        x = x.flatten(1, 2)
        x = mx.concatenate([mx.mean(x, axis=1, keepdims=True), x], axis=1) + self.positional_embedding
        # only the mean token is read, so it is the only query
        queries, keys, values = (self._heads(y) for y in (self.q_proj(x[:, :1]), self.k_proj(x), self.v_proj(x)))
        scale = queries.shape[-1] ** -0.5
        mixed: mx.array = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale)
        return mixed.transpose(0, 2, 1, 3).reshape(x.shape[0], -1)

    def _heads(self, x: mx.array) -> mx.array:
        """[B, T, width] -> [B, heads, T, width / heads]."""
        return x.reshape(*x.shape[:2], self.num_heads, -1).transpose(0, 2, 1, 3)


class ResNetModel(nn.Module):
    """The image tower up to its pooled vector."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        width, eps = config.width, config.batch_norm_eps
        self.conv1 = nn.Conv2d(config.num_channels, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = BatchNorm(width // 2, eps)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = BatchNorm(width // 2, eps)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = BatchNorm(width, eps)
        self.layer1 = _stage(width, width, config.layers[0], stride=1, eps=eps)
        self.layer2 = _stage(4 * width, 2 * width, config.layers[1], stride=2, eps=eps)
        self.layer3 = _stage(8 * width, 4 * width, config.layers[2], stride=2, eps=eps)
        self.layer4 = _stage(16 * width, 8 * width, config.layers[3], stride=2, eps=eps)
        self.attnpool = AttentionPool(config)

    def __call__(self, pixels: mx.array) -> mx.array:
        """Return the pooled vectors of prepared pixels.

        Args:
            pixels: [B, image_size, image_size, channels], as `sharpzo_mlx.images.load.preprocess` makes them.

        Returns:
            [B, width] in the weights' dtype.
        """
        x = pixels.astype(self.conv1.weight.dtype)
        for convolution, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = nn.relu(norm(convolution(x)))
        x = average(x, 2)
        for block in (*self.layer1, *self.layer2, *self.layer3, *self.layer4):
            x = block(x)
        return self.attnpool(x)


def average(x: mx.array, size: int) -> mx.array:
    """Average size x size squares, without a rest that fills none: [B, H, W, C] -> [B, H / size, W / size, C]."""
    if size == 1:
        return x
    batch, height, width, channels = x.shape
    rows, columns = height // size, width // size
    squares = x[:, : rows * size, : columns * size].reshape(batch, rows, size, columns, size, channels)
    return mx.mean(squares, axis=(2, 4))


def _stage(before: int, within: int, blocks: int, *, stride: int, eps: float) -> list[Bottleneck]:
    """Build one stage; its first block has the stride and changes the channels."""
    after = within * EXPANSION
    return [Bottleneck(after if i else before, within, 1 if i else stride, eps) for i in range(blocks)]
