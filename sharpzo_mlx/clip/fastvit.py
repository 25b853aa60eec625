"""MobileCLIP's image tower FastViT-MCi in its folded form: prepared pixels become one vector an image.

Training has several branches of convolution and batch norm side by side; `convert` adds each group of them up to one
convolution (Vasu et al., arXiv 2303.14189, sections 3 and 4). What is left are convolutions, GELU,
squeeze-and-excitation, attention and layer scales. Convolutions of one pixel are linear layers here.

>>> FastViTModel(FastViTConfig(layers=(1, 1), widths=(8, 32)))(mx.zeros((1, 64, 64, 3))).shape
(1, 64)
"""

from __future__ import annotations

import mlx.core as mx
from mlx import nn

from sharpzo_mlx.clip.activations import gelu
from sharpzo_mlx.clip.fastvit_config import FINAL, FastViTConfig

SMALL, LARGE = 3, 7  # pixels of a kernel's side
DOWN = 4  # how much narrower the middle of squeeze-and-excitation is, at the beginning of a stage
LAST = 16  # and behind the last convolution
STEP = 8  # at the beginning of a stage that middle is a multiple of it


class Depthwise(nn.Module):
    """A convolution of each channel by itself; `after` may be a multiple of `before`, which repeats the channels."""

    def __init__(self, before: int, after: int, size: int, stride: int = 1) -> None:
        super().__init__()
        self.stride, self.repeats = stride, after // before
        self.weight = mx.zeros((after, size, size, 1))
        self.bias = mx.zeros((after,))

    def __call__(self, x: mx.array) -> mx.array:
        """[B, H, W, before] -> [B, H / stride, W / stride, after], rounded up."""
        if self.repeats > 1:
            x = mx.repeat(x, self.repeats, axis=-1)
        padding = self.weight.shape[1] // 2
        return mx.conv2d(x, self.weight, self.stride, padding, groups=x.shape[-1]) + self.bias


class SqueezeExcite(nn.Module):
    """Weigh channels by a small network of their means (Hu et al., arXiv 1709.01507)."""

    def __init__(self, channels: int, middle: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, middle)
        self.fc2 = nn.Linear(middle, channels)

    def __call__(self, x: mx.array) -> mx.array:
        """[B, H, W, channels]; the shape stays."""
        means = mx.mean(x, axis=(1, 2), keepdims=True)
        weighed: mx.array = x * mx.sigmoid(self.fc2(nn.relu(self.fc1(means))))
        return weighed


class Downsample(nn.Module):
    """The beginning of a stage: half of the sides, and other channels."""

    def __init__(self, before: int, after: int, *, squeezed: bool) -> None:
        super().__init__()
        self.spatial = Depthwise(before, after, LARGE, stride=2)
        if squeezed:
            self.squeeze = SqueezeExcite(after, round_up(after // DOWN))
        self.pointwise = nn.Linear(after, after)

    def __call__(self, x: mx.array) -> mx.array:
        """[B, H, W, before] -> [B, H / 2, W / 2, after], rounded up."""
        x = self.spatial(x)
        if "squeeze" in self:
            x = self.squeeze(x)
        return gelu(self.pointwise(gelu(x)))


class ConvMLP(nn.Module):
    """A 7 x 7 convolution of each channel, then two linear layers with GELU between them."""

    def __init__(self, width: int, middle: int) -> None:
        super().__init__()
        self.spatial = Depthwise(width, width, LARGE)
        self.fc1 = nn.Linear(width, middle)
        self.fc2 = nn.Linear(middle, width)

    def __call__(self, x: mx.array) -> mx.array:
        """[B, H, W, width]; the shape stays."""
        changed: mx.array = self.fc2(gelu(self.fc1(self.spatial(x))))
        return changed


class Attention(nn.Module):
    """Multi-head attention of an image's positions; `bias` is what a folded batch norm leaves."""

    def __init__(self, width: int, head: int, *, bias: bool) -> None:
        super().__init__()
        self.head = head
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.proj = nn.Linear(width, width)

    def __call__(self, x: mx.array) -> mx.array:
        """[B, H, W, width]; the shape stays."""
        batch, height, width, channels = x.shape
        split = self.qkv(x).reshape(batch, height * width, 3, -1, self.head)
        queries, keys, values = (split[:, :, part].transpose(0, 2, 1, 3) for part in range(3))
        mixed = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=self.head**-0.5)
        projected: mx.array = self.proj(mixed.transpose(0, 2, 1, 3).reshape(batch, height, width, channels))
        return projected


class Block(nn.Module):
    """One block: a mixer of positions, then the MLP; each change is scaled and added."""

    def __init__(self, config: FastViTConfig, stage: int) -> None:
        super().__init__()
        width = config.widths[stage]
        if config.has_attention(stage):
            if config.layer_norm:
                self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
            self.attention = Attention(width, config.head_width, bias=not config.layer_norm)
            self.attention_scale = mx.ones((width,))
        else:
            self.mixer = Depthwise(width, width, SMALL)  # its scale and its sum are folded too
        self.mlp = ConvMLP(width, config.mlp_ratio * width)
        self.mlp_scale = mx.ones((width,))

    def __call__(self, x: mx.array) -> mx.array:
        """[B, H, W, width]; the shape stays."""
        if "attention" in self:
            x = x + self.attention_scale * self.attention(self.norm(x) if "norm" in self else x)
        else:
            x = self.mixer(x)
        return x + self.mlp_scale * self.mlp(x)


class Stage(nn.Module):
    """One stage: downsampling except in the first, positions where attention needs them, blocks."""

    def __init__(self, config: FastViTConfig, stage: int) -> None:
        super().__init__()
        width = config.widths[stage]
        if stage:
            self.downsample = Downsample(config.widths[stage - 1], width, squeezed=config.is_squeezed(stage))
        if config.has_attention(stage):
            self.positions = Depthwise(width, width, LARGE)  # conditional encoding (arXiv 2102.10882), its sum folded
        self.blocks = [Block(config, stage) for _ in range(config.layers[stage])]

    def __call__(self, x: mx.array) -> mx.array:
        """[B, H, W, channels] -> [B, H / 2, W / 2, width], or the same sides in the first stage."""
        if "downsample" in self:
            x = self.downsample(x)
        if "positions" in self:
            x = self.positions(x)
        for block in self.blocks:
            x = block(x)
        return x


class Final(nn.Module):
    """The last convolution, which doubles the channels, with squeeze-and-excitation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spatial = Depthwise(width, FINAL * width, SMALL)
        self.squeeze = SqueezeExcite(FINAL * width, FINAL * width // LAST)

    def __call__(self, x: mx.array) -> mx.array:
        """[B, H, W, width] -> [B, H, W, 2 width]."""
        return gelu(self.squeeze(self.spatial(x)))


class Stem(nn.Module):
    """Three convolutions: 3 x 3 with stride 2, 3 x 3 of each channel with stride 2, 1 x 1."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width, SMALL, stride=2, padding=SMALL // 2)
        self.spatial = Depthwise(width, width, SMALL, stride=2)
        self.pointwise = nn.Linear(width, width)

    def __call__(self, x: mx.array) -> mx.array:
        """[B, H, W, channels] -> [B, H / 4, W / 4, width], rounded up."""
        return gelu(self.pointwise(gelu(self.spatial(gelu(self.first(x))))))


class FastViTModel(nn.Module):
    """The image tower up to the vector that is projected."""

    def __init__(self, config: FastViTConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = Stem(config.num_channels, config.widths[0])
        self.stages = [Stage(config, stage) for stage in range(len(config.layers))]
        self.final = Final(config.widths[-1])

    def __call__(self, pixels: mx.array) -> mx.array:
        """Return the pooled vectors of prepared pixels.

        Args:
            pixels: [B, image_size, image_size, channels], as `sharpzo_mlx.images.load.preprocess` makes them.

        Returns:
            [B, twice the last width] in the weights' dtype.
        """
        x = self.stem(pixels.astype(self.stem.first.weight.dtype))
        for stage in self.stages:
            x = stage(x)
        return mx.mean(self.final(x), axis=(1, 2))


def round_up(middle: int) -> int:
    """Return the multiple of `STEP` that is nearest to the middle of a squeeze-and-excitation, at least one."""
    return max(STEP, (middle + STEP // 2) // STEP * STEP)
