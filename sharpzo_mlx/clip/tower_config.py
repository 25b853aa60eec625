"""The sizes of the towers: text, ViT, ViT with a convolutional stem or rotary positions, ResNet, and SigLIP's two.

The fields have the names of the checkpoints' own `config.json`, and their defaults are those of the library that wrote
it. A SigLIP's towers have the fields of CLIP's with other defaults. They also end otherwise: its text tower has no mask
and is read at its last position, whatever stands there; its image tower has no class token and ends with attention
pooling (Zhai et al., "Sigmoid loss for language image pre-training", arXiv 2303.15343).

>>> SigLIPVisionConfig(image_size=256).positions
256
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from sharpzo_mlx.clip.fastvit_config import FASTVIT, FastViTConfig

ACTIVATIONS = ("quick_gelu", "gelu", "gelu_pytorch_tanh", "gelu_new", "gelu_fast")
RESNET = "clip_resnet_model"  # our `model_type` of a vision_config; Hugging Face has none for it
CONV_STEM = "clip_vision_conv_stem_model"  # ours too
ROTARY = "clip_vision_rotary_model"  # ours too
STEM_PATCH = 16  # pixels of a patch's side that a convolutional stem cuts
LEGACY_EOS = 2  # configs written before the id was corrected: the text ends at its largest id instead


@dataclass(frozen=True)
class TextConfig:
    """The sizes of the text tower; `causal` is false only for towers trained without CLIP's causal mask."""

    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    vocab_size: int = 49408
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    bos_token_id: int = 49406
    eos_token_id: int = 49407
    pad_token_id: int = 1
    causal: bool = True

    @property
    def read_at_the_end(self) -> bool:
        """Whether the last of all positions is read, and not the one where the text ends."""
        return False


@dataclass(frozen=True)
class SigLIPTextConfig(TextConfig):
    """The sizes of a SigLIP's text tower; its tokenizer knows where a text ends, the tower does not."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_attention_heads: int = 12
    max_position_embeddings: int = 64
    vocab_size: int = 32000
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6
    bos_token_id: int = 1
    eos_token_id: int = 1
    causal: bool = False

    @property
    def read_at_the_end(self) -> bool:
        """Whether the last of all positions is read, and not the one where the text ends."""
        return True


@dataclass(frozen=True)
class VisionConfig:
    """The sizes of a ViT image tower; images and patches are square, in pixels."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    image_size: int = 224
    patch_size: int = 32
    num_channels: int = 3
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    @property
    def positions(self) -> int:
        """How many tokens it sees: the class token and one for each patch."""
        return (self.image_size // self.patch_size) ** 2 + 1


@dataclass(frozen=True)
class ConvStemConfig(VisionConfig):
    """The sizes of a ViT whose patches three convolutions cut, as in MobileCLIP-B (`clip.conv_stem`)."""

    patch_size: int = STEM_PATCH


@dataclass(frozen=True)
class RotaryVisionConfig(VisionConfig):
    """The sizes of a Perception Encoder's image tower: CLIP's, with `clip.rotary` and attention pooling."""

    patch_size: int = 16
    hidden_act: str = "gelu"
    num_pooling_heads: int = 8


@dataclass(frozen=True)
class SigLIPVisionConfig(VisionConfig):
    """The sizes of a SigLIP's image tower."""

    patch_size: int = 16
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6

    @property
    def positions(self) -> int:
        """How many tokens it sees: one for each patch."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class ResNetConfig:
    """The sizes of CLIP's modified ResNet as image tower; `layers` are the blocks of its four stages."""

    layers: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64  # channels behind the stem
    num_attention_heads: int = 32  # of the pooling
    image_size: int = 224
    num_channels: int = 3
    batch_norm_eps: float = 1e-5

    @property
    def hidden_size(self) -> int:
        """Channels of the last stage, which the pooling reads."""
        return 32 * self.width

    @property
    def positions(self) -> int:
        """How many tokens the pooling sees: the mean, and one for each pixel of the last stage (side: image / 32)."""
        return (self.image_size // 32) ** 2 + 1


ImageConfig: TypeAlias = VisionConfig | ResNetConfig | FastViTConfig
IMAGE_KINDS: dict[str, type[ImageConfig]] = {  # by the `model_type` of a CLIP's vision_config
    "clip_vision_model": VisionConfig,
    CONV_STEM: ConvStemConfig,
    ROTARY: RotaryVisionConfig,
    RESNET: ResNetConfig,
    FASTVIT: FastViTConfig,
}
