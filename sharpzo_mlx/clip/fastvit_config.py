"""The sizes of MobileCLIP's image towers FastViT-MCi, in the folded form that we compute.

A stage halves the image's sides, except the first, and has blocks of one kind: depthwise convolutions, or attention in
the last stages (Vasu et al., arXiv 2303.14189 and 2311.17049; Faghri et al., arXiv 2508.20691).

>>> FastViTConfig().hidden_size
1024
"""

from __future__ import annotations

from dataclasses import dataclass

from sharpzo_mlx.errors import UserError

FASTVIT = "fastvit_mci_model"  # our `model_type` of a vision_config; Hugging Face has none for it
FIRST = 4  # how much smaller the first stage is than the image, by side
FINAL = 2  # how much wider the last convolution is than the last stage
MOST_STAGES = 8


@dataclass(frozen=True)
class FastViTConfig:
    """The sizes of a FastViT-MCi image tower; the defaults are those of MobileCLIP2-S0.

    Attributes:
        layers: the blocks of each stage.
        widths: the channels of each stage.
        mlp_ratio: how much wider the middle of an MLP is than its stage.
        attention_stages: how many of the last stages mix positions by attention.
        squeezed_stages: how many of the last stages have squeeze-and-excitation where they begin.
        layer_norm: whether a layer norm stands before attention; else a batch norm stood there and is folded away.
        head_width: channels of one attention head.
        image_size: the side of an image in pixels.
        num_channels: of an image.
        layer_norm_eps: of the layer norms.
    """

    layers: tuple[int, ...] = (2, 6, 10, 2)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    mlp_ratio: int = 3
    attention_stages: int = 1
    squeezed_stages: int = 2
    layer_norm: bool = False
    head_width: int = 32
    image_size: int = 256
    num_channels: int = 3
    layer_norm_eps: float = 1e-5

    @property
    def hidden_size(self) -> int:
        """Channels behind the last convolution, whose mean over the image is projected."""
        return FINAL * self.widths[-1]

    @property
    def num_attention_heads(self) -> int:
        """Attention heads of the last stage."""
        return self.widths[-1] // self.head_width

    @property
    def positions(self) -> int:
        """How many positions the first stage has."""
        return (-(-self.image_size // FIRST)) ** 2

    def has_attention(self, stage: int) -> bool:
        """Tell whether a stage mixes positions by attention."""
        return stage >= len(self.layers) - self.attention_stages

    def is_squeezed(self, stage: int) -> bool:
        """Tell whether a stage begins with squeeze-and-excitation."""
        return stage >= len(self.layers) - self.squeezed_stages

    def check(self) -> None:
        """Refuse sizes that do not go together.

        Raises:
            UserError: the numbers of stages differ, or a width is no multiple of the heads'.
        """
        stages = len(self.layers)
        if stages != len(self.widths):
            raise UserError(
                f"config.json: vision_config.layers has {stages} stages, but widths has {len(self.widths)}; "
                "both need one number for each stage"
            )
        if max(self.attention_stages, self.squeezed_stages) >= stages:
            raise UserError(
                f"config.json: vision_config has {stages} stages; attention_stages and squeezed_stages must be fewer"
            )
        for stage, width in enumerate(self.widths):
            if self.has_attention(stage) and width % self.head_width:
                raise UserError(
                    f"config.json: vision_config.widths has {width}, which is no multiple of head_width, "
                    f"{self.head_width}; correct one of them"
                )
