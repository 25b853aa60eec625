"""The network of a CLIP or SigLIP: two towers, their projections into one space, and the scale of its cosines.

The attribute tree is the checkpoint's key tree. A model can be built with one tower alone: tuning needs no image tower,
and encoding images needs no text tower. Features are cast to float32 before they are normalised, whatever the weights'
dtype: half precision would round the small differences of losses that tuning lives on.

>>> CLIPModel(config, towers=("text",)).text_features(tokenizer(["a photo of a tench."]))  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import mlx.core as mx
import numpy as np
from mlx import nn

from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.fastvit import FastViTModel
from sharpzo_mlx.clip.fastvit_config import FastViTConfig
from sharpzo_mlx.clip.resnet import ResNetModel
from sharpzo_mlx.clip.text import TextModel
from sharpzo_mlx.clip.tower_config import (
    ConvStemConfig,
    ImageConfig,
    ResNetConfig,
    RotaryVisionConfig,
    SigLIPVisionConfig,
)
from sharpzo_mlx.clip.vision import PooledVisionModel, RotaryVisionModel, VisionModel
from sharpzo_mlx.images.load import CHANNEL_STARTS, levels, normalise
from sharpzo_mlx.images.preprocessor import PreprocessorConfig
from sharpzo_mlx.runtime.device import on_cpu

TOWERS = ("text", "vision")
ImageTower: TypeAlias = VisionModel | PooledVisionModel | RotaryVisionModel | ResNetModel | FastViTModel


def unit_norm(features: mx.array) -> mx.array:
    """Return features [..., D] of any float dtype as float32, of unit length along the last axis."""
    features = features.astype(mx.float32)
    return features / mx.linalg.norm(features, axis=-1, keepdims=True)


def normalise_on_device(pictures: mx.array, config: PreprocessorConfig) -> mx.array:
    """Rescale and normalise bytes [..., 3] to float32, to the same numbers as `images.load.normalise`.

    A GPU looks them up itself: the bytes are a quarter of the pixels, and no core works on them. MLX's CPU device takes
    twice as long as NumPy.
    """
    if on_cpu():
        return mx.array(normalise(np.array(pictures), config))
    return mx.take(mx.array(levels(config)), pictures.astype(mx.int32) + mx.array(CHANNEL_STARTS.astype(np.int32)))


class CLIPModel(nn.Module):
    """A CLIP or SigLIP with both towers or one; the attributes of a tower that is not in `towers` are absent.

    A SigLIP has `logit_bias`, the summand of its logits; its image tower ends in the joint space without a projection.
    """

    text_model: TextModel
    vision_model: ImageTower

    def __init__(self, config: CLIPConfig, towers: Sequence[str] = TOWERS) -> None:
        super().__init__()
        self.config = config
        if "text" in towers:
            self.text_model = TextModel(config.text)
            self.text_projection = nn.Linear(config.text.hidden_size, config.projection_dim, bias=config.siglip)
        if "vision" in towers:
            self.vision_model = _image_tower(config.vision)
            if not config.siglip:
                bias = _projects_with_bias(config.vision)
                self.visual_projection = nn.Linear(config.vision.hidden_size, config.projection_dim, bias=bias)
        self.logit_scale = mx.zeros(())
        if config.siglip:
            self.logit_bias = mx.zeros(())

    def text_features(self, input_ids: mx.array) -> mx.array:
        """Return the features [B, projection_dim] (float32, unit length) of token ids [B, T] from the tokenizer."""
        return unit_norm(self.text_projection(self.text_model(input_ids)))

    def image_features(self, pixels: mx.array) -> mx.array:
        """Return the features of pictures.

        Args:
            pixels: [B, image_size, image_size, channels], as `sharpzo_mlx.images.load.preprocess` makes them, or
                bytes of the same shape, as `sharpzo_mlx.images.load.stream` yields them.

        Returns:
            [B, projection_dim], float32, unit length.

        Raises:
            ValueError: the pixels have another size than the checkpoint's.
        """
        config = self.config.vision
        expected = (config.image_size, config.image_size, config.num_channels)
        if pixels.shape[1:] != expected:
            raise ValueError(f"pixels are {pixels.shape[1:]} an image, the image tower takes {expected}")
        if pixels.dtype == mx.uint8:
            pixels = normalise_on_device(pixels, self.config.preprocessor)
        pooled = self.vision_model(pixels)
        return unit_norm(self.visual_projection(pooled) if "visual_projection" in self else pooled)


def _image_tower(vision: ImageConfig) -> ImageTower:
    if isinstance(vision, FastViTConfig):
        return FastViTModel(vision)
    if isinstance(vision, SigLIPVisionConfig):
        return PooledVisionModel(vision)
    if isinstance(vision, RotaryVisionConfig):
        return RotaryVisionModel(vision)
    return ResNetModel(vision) if isinstance(vision, ResNetConfig) else VisionModel(vision)


def _projects_with_bias(vision: ImageConfig) -> bool:
    return isinstance(vision, ResNetConfig | FastViTConfig | ConvStemConfig | RotaryVisionConfig)
