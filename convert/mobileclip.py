"""Describe MobileCLIP and MobileCLIP2: their image towers by timm's names, Apple's own files, and the licence.

Apple's own files hold tensors alone. Their networks are told apart by the sizes of the image tower, and only those that
Apple published are known, since neither the image's size nor the mask of the text tower can be seen in tensors.

>>> find_tower("fastvit_mci1")["layers"]
[4, 12, 20, 4]
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sharpzo_mlx.clip.fastvit_config import FASTVIT, FastViTConfig
from sharpzo_mlx.clip.tower_config import CONV_STEM, STEM_PATCH, ConvStemConfig, ImageConfig
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.images.preprocessor import CLIP_MEAN, CLIP_STD

from .apple_names import TRUNK
from .conv_stem_names import STEM

LICENCE = "apple-amlr"  # the hub's name for Apple's licence of models for research
TERMS = (
    f"Apple's MobileCLIP weights are for research only ({LICENCE}), and so is what is made from them, such as prompts"
)
_LARGE = {"attention_stages": 2, "squeezed_stages": 0, "layer_norm": True, "mlp_ratio": 4}
_FASTVITS: dict[str, dict[str, Any]] = {
    "fastvit_mci0": {"layers": [2, 6, 10, 2], "widths": [64, 128, 256, 512]},
    "fastvit_mci1": {"layers": [4, 12, 20, 4], "widths": [64, 128, 256, 512]},
    "fastvit_mci2": {"layers": [4, 12, 24, 4], "widths": [80, 160, 320, 640]},
    "fastvit_mci3": {"layers": [2, 12, 24, 4, 2], "widths": [96, 192, 384, 768, 1536]} | _LARGE,
    "fastvit_mci4": {"layers": [2, 12, 24, 4, 4], "widths": [128, 256, 512, 1024, 2048]} | _LARGE,
}
VIT = "vit_base_mci_224"
TOWERS = (*_FASTVITS, VIT)
_NAMES = re.compile(r"mobileclip.*\.(pt|pth|bin|safetensors)", re.IGNORECASE)
_FIRST = re.compile(r"visual\.trunk\.stem\.0\.(conv_kxk\.0\.conv|reparam_conv)\.weight")
_LAYER = re.compile(r"text\.transformer\.resblocks\.(\d{1,4})\.")
_BLOCK = re.compile(r"visual\.trunk\.stages\.(\d{1,3})\.blocks\.(\d{1,4})\.")


def find_tower(name: str) -> dict[str, Any]:
    """Return our `vision_config` of an image tower, one of `TOWERS`, by timm's name."""
    if name != VIT:
        return {"model_type": FASTVIT, "image_size": 256} | _FASTVITS[name]
    return {
        "model_type": CONV_STEM,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": STEM_PATCH,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
    }


def translate_vision(section: Mapping[str, Any]) -> dict[str, Any]:
    """Translate an open_clip `vision_cfg` whose `timm_model_name` is one of `TOWERS`; the image size is the network's.

    Raises:
        UserError: it asks for another pooling or projection than these networks have.
    """
    name = section["timm_model_name"]
    pool, projection = section.get("timm_pool"), section.get("timm_proj")
    if pool not in (("token" if name == VIT else "avg"), "", None) or projection:
        raise UserError(
            f"open_clip_config.json: {name} with timm_pool {pool!r} and timm_proj {projection!r} is no MobileCLIP"
        )
    return find_tower(name)


def may_be_one(path: Path) -> bool:
    """Tell by its name whether a weights file without a description may be one of Apple's own."""
    return _NAMES.fullmatch(path.name) is not None


def is_one(vision: ImageConfig) -> bool:
    """Tell whether an image tower is that of a MobileCLIP."""
    return isinstance(vision, FastViTConfig | ConvStemConfig)


def find_terms(vision: ImageConfig, licence: str | None) -> str | None:
    """Return the terms of a model's weights in a sentence, where they are Apple's; else None.

    Args:
        vision: the image tower.
        licence: the licence that the checkpoint's own card names, or None.
    """
    apples = licence is None or licence == "other" or licence.startswith("apple")
    return TERMS if apples and is_one(vision) else None


def config_from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any] | None:
    """Return the `config.json` of a MobileCLIP's tensors in open_clip's spelling; None where they are of another CLIP.

    Raises:
        UserError: the sizes are of no image tower that Apple published; the message has no file name.
    """
    shapes = {name.removeprefix("module."): shape for name, shape in shapes.items()}
    name = _name_tower(shapes)
    if name is None:
        return None
    tower = find_tower(name)
    large = bool(tower.get("layer_norm"))
    size = tower["image_size"]
    square = {"height": size, "width": size}
    pixels = (CLIP_MEAN, CLIP_STD) if large else ((0.0,) * 3, (1.0,) * 3)
    return {
        "model_type": "clip",
        "projection_dim": shapes.get("text.text_projection", (0, 512))[1],
        "text_config": _read_text(shapes) | {"causal": name == VIT},
        "vision_config": tower,
        "preprocessor": {
            "size": {"shortest_edge": size},
            "crop_size": square,
            "resample": 2,
            "image_mean": list(pixels[0]),
            "image_std": list(pixels[1]),
        },
    }


def _read_text(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return our `text_config` of a text tower by its sizes; all of them have heads of 64 numbers."""
    vocabulary, width = shapes.get("text.token_embedding.weight", (49408, 512))
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": len({match[1] for name in shapes if (match := _LAYER.match(name))}),
        "num_attention_heads": max(1, width // 64),
        "max_position_embeddings": shapes.get("text.positional_embedding", (77,))[0],
        "vocab_size": vocabulary,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": 0,
        "hidden_act": "gelu",
    }


def _name_tower(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Return timm's name of the image tower with these sizes; None where the names are of no such tower."""
    if any(name.startswith(TRUNK + STEM) for name in shapes):
        return VIT
    stem = next((shape for name, shape in shapes.items() if _FIRST.fullmatch(name)), None)
    if not stem:
        return None
    blocks = len({match.groups() for name in shapes if (match := _BLOCK.match(name))})
    for name, tower in _FASTVITS.items():
        if tower["widths"][0] == stem[0] and sum(tower["layers"]) == blocks:
            return name
    raise UserError("it has the names of a MobileCLIP, but the sizes of none that Apple published")
