"""The ViT image towers of CLIP, SigLIP and the Perception Encoder: they turn prepared pixels into one vector an image.

A convolution whose stride is its size cuts the image into patches. In CLIP a class token stands before them, and its
last state is the result (Radford et al., arXiv 2103.00020, section 2.4); a SigLIP ends with `attention_pool`, and so
does a Perception Encoder, which has a class token too. The tower runs once for each image, before tuning starts.

>>> VisionModel(VisionConfig(hidden_size=48, num_hidden_layers=2))(mx.zeros((1, 224, 224, 3))).shape
(1, 48)
"""

from __future__ import annotations

import mlx.core as mx
from mlx import nn

from sharpzo_mlx.clip.attention_pool import AttentionPool
from sharpzo_mlx.clip.conv_stem import ConvStem
from sharpzo_mlx.clip.layers import Encoder
from sharpzo_mlx.clip.rotary import RotaryEncoder
from sharpzo_mlx.clip.tower_config import ConvStemConfig, RotaryVisionConfig, SigLIPVisionConfig, VisionConfig


class VisionEmbeddings(nn.Module):
    """The class token, the patch convolution or the stem of convolutions in its place, and the position table."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width, patch = config.hidden_size, config.patch_size
        self.class_embedding = mx.zeros((width,))
        self.patch_embedding = (
            ConvStem(config.num_channels, width)
            if isinstance(config, ConvStemConfig)
            else nn.Conv2d(config.num_channels, width, patch, stride=patch, bias=False)
        )
        self.position_embedding = nn.Embedding(config.positions, width)

    def __call__(self, pixels: mx.array) -> mx.array:
        """Embed [B, H, W, channels] as [B, 1 + patches, width] in the weights' dtype."""
        patches = self.patch_embedding(pixels.astype(self.patch_embedding.weight.dtype))
        patches = patches.flatten(1, 2)  # [B, patches, width]
        batch, _, width = patches.shape
        start = mx.broadcast_to(self.class_embedding, (batch, 1, width))
        tokens = mx.concatenate([start, patches], axis=1)
        positions: mx.array = self.position_embedding(mx.arange(tokens.shape[1]))
        return tokens + positions


class VisionModel(nn.Module):
    """The image tower up to its pooled vector; `pre_layrnorm` is the checkpoints' own spelling."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = VisionEmbeddings(config)
        if not isinstance(config, ConvStemConfig):
            self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder = Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def __call__(self, pixels: mx.array) -> mx.array:
        """Return the pooled vectors of prepared pixels.

        Args:
            pixels: [B, image_size, image_size, channels], as `sharpzo_mlx.images.load.preprocess` makes them.

        Returns:
            [B, width] in the weights' dtype.
        """
        x = self.embeddings(pixels)
        x = self.encoder(self.pre_layrnorm(x) if "pre_layrnorm" in self else x)
        pooled: mx.array = self.post_layernorm(x[:, 0])
        return pooled


class PatchEmbeddings(nn.Module):
    """The patch convolution of a SigLIP, which has a bias, and the position table."""

    def __init__(self, config: SigLIPVisionConfig) -> None:
        super().__init__()
        width, patch = config.hidden_size, config.patch_size
        self.patch_embedding = nn.Conv2d(config.num_channels, width, patch, stride=patch)
        self.position_embedding = nn.Embedding(config.positions, width)

    def __call__(self, pixels: mx.array) -> mx.array:
        """Embed [B, H, W, channels] as [B, patches, width] in the weights' dtype."""
        patches = self.patch_embedding(pixels.astype(self.patch_embedding.weight.dtype))
        tokens: mx.array = patches.flatten(1, 2) + self.position_embedding.weight
        return tokens


class PooledVisionModel(nn.Module):
    """A SigLIP's image tower up to its pooled vector, which no projection follows."""

    def __init__(self, config: SigLIPVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = PatchEmbeddings(config)
        self.encoder = Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.head = AttentionPool(config, config.num_attention_heads)

    def __call__(self, pixels: mx.array) -> mx.array:
        """Return the pooled vectors of prepared pixels, as `VisionModel` does."""
        return self.head(self.post_layernorm(self.encoder(self.embeddings(pixels))))


class RotaryVisionModel(nn.Module):
    """A Perception Encoder's image tower up to its pooled vector: CLIP's with rotary positions and another end."""

    def __init__(self, config: RotaryVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = VisionEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder = RotaryEncoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.head = AttentionPool(config, config.num_pooling_heads)

    def __call__(self, pixels: mx.array) -> mx.array:
        """Return the pooled vectors of prepared pixels, as `VisionModel` does."""
        x = self.encoder(self.pre_layrnorm(self.embeddings(pixels)))
        return self.head(self.post_layernorm(x))
