"""Check a configuration: each size within its range, and all of them possible together.

Nothing is loaded or allocated before. An error is one line that names the field of `config.json`.

>>> check_range("projection_dim", 512, 1, MOST_OTHERS)
"""

from __future__ import annotations

from dataclasses import asdict

from sharpzo_mlx.clip.fastvit_config import FastViTConfig
from sharpzo_mlx.clip.tower_config import (
    ACTIVATIONS,
    STEM_PATCH,
    ConvStemConfig,
    ImageConfig,
    ResNetConfig,
    RotaryVisionConfig,
    TextConfig,
)
from sharpzo_mlx.errors import UserError, shown

MOST = {"num_hidden_layers": 200, "layers": 200, "vocab_size": 2**20, "image_size": 1024}
MOST |= {"max_position_embeddings": 2**13, "bos_token_id": 2**20, "eos_token_id": 2**20, "pad_token_id": 2**20}
MOST_OTHERS = 2**16  # of widths and all other whole numbers: far above every CLIP, and far below any memory
MOST_PATCHES = 2**14  # of an image
SMALLEST_EPS = 1e-12


def check_range(name: str, value: int, least: int, most: int) -> None:
    """Refuse a whole number outside of a range; the message names the field."""
    if not least <= value <= most:
        expected = f"{least} or more" if value < least else f"{most} or less" if least < most else f"{most}"
        raise UserError(f"config.json: {name} is {shown(value)}; it must be {expected}")


def check_towers(text: TextConfig, vision: ImageConfig, projection_dim: int, produced: tuple[int, int] | None) -> None:
    """Refuse sizes that no network has, or that do not go together.

    Args:
        text, vision: the towers.
        projection_dim: the width of features.
        produced: the size of the images that the preprocessing makes (height, width); None where it varies.

    Raises:
        UserError: the message names the field, its value and what is possible.
    """
    for name, tower in (("text_config", text), ("vision_config", vision)):
        _check_tower(name, tower)
    if isinstance(vision, FastViTConfig):
        vision.check()
    elif isinstance(vision, ResNetConfig):
        check_range("the length of vision_config.layers", len(vision.layers), 4, 4)
        if vision.image_size < 32 or vision.width < 2 or vision.width % 2:
            raise UserError(
                f"config.json: vision_config has image_size {vision.image_size} and width {vision.width}; "
                "a ResNet needs 32 pixels or more and an even width"
            )
    elif vision.patch_size > vision.image_size:
        raise UserError(
            f"config.json: vision_config.patch_size is {vision.patch_size}, more than image_size, {vision.image_size}"
        )
    elif isinstance(vision, ConvStemConfig) and (vision.patch_size != STEM_PATCH or vision.hidden_size % 4):
        raise UserError(f"config.json: vision_config: a stem needs a patch_size of {STEM_PATCH} and a width of 4 n")
    elif isinstance(vision, RotaryVisionConfig):
        _check_heads(vision)
    if vision.positions > MOST_PATCHES + 1:
        raise UserError(
            f"config.json: vision_config cuts an image into {vision.positions - 1} patches, more than any CLIP"
        )
    check_range("projection_dim", projection_dim, 1, MOST_OTHERS)
    if not text.causal and text.pad_token_id >= text.vocab_size:
        check_range("text_config.pad_token_id", text.pad_token_id, 0, text.vocab_size - 1)
    if produced is not None and produced != (vision.image_size, vision.image_size):
        raise UserError(
            f"the preprocessor makes images of {produced[0]}x{produced[1]} pixels but the image tower takes "
            f"{vision.image_size}x{vision.image_size}; correct crop_size or image_size"
        )


def _check_heads(vision: RotaryVisionConfig) -> None:
    """Refuse heads that cannot be turned along two axes in pairs, and another number of heads than divides a width."""
    for field, parts in (
        ("num_attention_heads", 4 * vision.num_attention_heads),
        ("num_pooling_heads", vision.num_pooling_heads),
    ):
        if vision.hidden_size % parts:
            raise UserError(
                f"config.json: vision_config.hidden_size {vision.hidden_size} must be a multiple of {parts}, for "
                f"{field} {getattr(vision, field)}"
            )


def _check_tower(name: str, tower: TextConfig | ImageConfig) -> None:
    for field, value in asdict(tower).items():
        if field.endswith("_eps"):
            if not SMALLEST_EPS <= value < 1:
                raise UserError(f"config.json: {name}.{field} is {value}; it must lie between 0 and 1, as 1e-5 does")
        elif not isinstance(value, (str, bool)):
            least = 0 if field.endswith(("_id", "_stages")) or field == "num_hidden_layers" else 1
            for number in value if isinstance(value, tuple) else (value,):
                check_range(f"{name}.{field}", number, least, MOST.get(field, MOST_OTHERS))
    if not isinstance(tower, TextConfig):
        check_range(f"{name}.num_channels", tower.num_channels, 3, 3)
        check_range(f"{name}.hidden_size", tower.hidden_size, 1, MOST_OTHERS)
    if isinstance(tower, FastViTConfig):
        return
    if tower.hidden_size % tower.num_attention_heads:
        raise UserError(
            f"config.json: {name}.hidden_size {tower.hidden_size} is not a multiple of its "
            f"num_attention_heads {tower.num_attention_heads}"
        )
    if not isinstance(tower, ResNetConfig) and tower.hidden_act not in ACTIVATIONS:
        raise UserError(
            f"config.json: {name}.hidden_act is {shown(tower.hidden_act)}; supported are {', '.join(ACTIVATIONS)}"
        )
