"""Describe Meta's Perception Encoders (PE-Core): their image towers by timm's names, and Meta's own files.

Meta's files hold tensors alone. Their networks are told apart by the sizes of the image tower.

>>> find_tower("vit_pe_core_base_patch16_224")["num_hidden_layers"]
12
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sharpzo_mlx.clip.tower_config import ROTARY
from sharpzo_mlx.errors import UserError, shown

HEAD = 64  # width of an attention head in all of them
SIZES = {  # width, layers, patch, image
    "vit_pe_core_tiny_patch16_384": (192, 12, 16, 384),
    "vit_pe_core_small_patch16_384": (384, 12, 16, 384),
    "vit_pe_core_base_patch16_224": (768, 12, 16, 224),
    "vit_pe_core_large_patch14_336": (1024, 24, 14, 336),
}
PIXELS = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "resize_mode": "squash"}
PROBE = "visual.attn_pool.probe"
LATENT = "visual.trunk.attn_pool.latent"  # the same in open_clip's spelling
START = "vit_pe_core_"  # of timm's names
_NAMES = re.compile(r"PE-Core.*\.(pt|pth|bin)", re.IGNORECASE)
OTHERS = "supported are PE-Core T, S, B and L, such as timm/PE-Core-B-16"


def may_be_one(path: Path) -> bool:
    """Tell by its name whether a weights file without a description may be one of Meta's own."""
    return _NAMES.fullmatch(path.name) is not None


def find_tower(name: str) -> dict[str, Any]:
    """Return our `vision_config` of an image tower by timm's name.

    Raises:
        UserError: it is not one of `SIZES`, such as that of G, which has no class token.
    """
    if name not in SIZES:
        raise UserError(f"its image tower is {name[:60]!r}, a Perception Encoder that is not supported; {OTHERS}")
    width, layers, patch, size = SIZES[name]
    return {
        "model_type": ROTARY,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // HEAD),
        "image_size": size,
        "patch_size": patch,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
    }


def translate_vision(section: Mapping[str, Any]) -> dict[str, Any]:
    """Translate an open_clip `vision_cfg` whose `timm_model_name` begins with `START`.

    Raises:
        UserError: it asks for another pooling, projection or size than these networks have.
    """
    tower = find_tower(str(section["timm_model_name"]))
    for field, values in (
        ("timm_pool", ("map",)),
        ("timm_proj", (None, "")),
        ("image_size", (tower["image_size"], [tower["image_size"]] * 2, None)),
    ):
        if section.get(field) not in values:
            raise UserError(
                f"open_clip_config.json: vision_cfg.{field} is {shown(section.get(field))}, in this Perception Encoder "
                f"{values[0]!r}; {OTHERS}"
            )
    return tower


def vision_from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any] | None:
    """Return open_clip's `vision_cfg` of tensors in Meta's own spelling; None where they are of another CLIP.

    Raises:
        UserError: the sizes are of no supported image tower, or the spelling is open_clip's; the message has no file
            name.
    """
    if LATENT in shapes:
        raise UserError("a Perception Encoder that open_clip has saved: name the network, such as --arch PE-Core-B-16")
    if PROBE not in shapes:
        return None
    width, _, patch, _ = shapes["visual.conv1.weight"]
    tokens = shapes["visual.positional_embedding"][0]
    for name, (its_width, _, its_patch, size) in SIZES.items():
        if (its_width, its_patch, (size // its_patch) ** 2 + 1) == (width, patch, tokens):
            return {"timm_model_name": name, "timm_pool": "map"}
    raise UserError(f"it has the names of a Perception Encoder, but the sizes of none that is supported; {OTHERS}")
