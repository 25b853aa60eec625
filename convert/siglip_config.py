"""Translate open_clip's description of a SigLIP into our `config.json`.

The file names timm's image tower, and the name says its width, its patches and the image's size. The activation of the
image tower follows from the name too, as in timm: the exact GELU in those that were made for SigLIP, the tanh form in
those that came with SigLIP 2.

>>> find_tower("vit_so400m_patch14_siglip_384")["num_attention_heads"]
16
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sharpzo_mlx.errors import UserError, shown

SUPPORTED = "supported are those with attention pooling, such as timm/ViT-B-16-SigLIP2"
# the width, the width inside the MLPs, the layers and the heads of each size
SIZES = {
    "base": (768, 3072, 12, 12),
    "large": (1024, 4096, 24, 16),
    "so400m": (1152, 4304, 27, 16),
    "giantopt": (1536, 6144, 40, 16),
}
TANH = ("base_patch32", "large_patch16_siglip_512", "so400m_patch16", "giantopt_")
_NAME = re.compile(r"vit_([a-z0-9]+)_patch(\d{1,3})_siglip_(\d{1,4})(\.\w+)?")


def is_siglip(vision: Mapping[str, Any], text: Mapping[str, Any]) -> bool:
    """Tell whether the towers of an `open_clip_config.json` are a SigLIP's; a CLIP may be trained with its loss."""
    return "siglip" in f"{vision.get('timm_model_name') or ''} {text.get('hf_tokenizer_name') or ''}".lower()


def find_tower(name: str) -> dict[str, Any]:
    """Return our `vision_config` of a timm image tower.

    Raises:
        UserError: it is not an image tower of SigLIP's with attention pooling.
    """
    if name.startswith("naflex"):
        raise UserError(
            f"its image tower is {name[:60]!r}, a SigLIP 2 of the kind NaFlex, which is not supported; give one of "
            "fixed resolution, such as timm/ViT-B-16-SigLIP2"
        )
    found = _NAME.fullmatch(name)
    if found is None or found[1] not in SIZES:
        raise UserError(f"its image tower is {name[:60]!r}, a SigLIP's that is not supported; {SUPPORTED}")
    width, hidden, layers, heads = SIZES[found[1]]
    return {
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "patch_size": int(found[2]),
        "image_size": int(found[3]),
        "hidden_act": "gelu_pytorch_tanh" if name.startswith(tuple(f"vit_{start}" for start in TANH)) else "gelu",
        "layer_norm_eps": 1e-6,
    }


def check_text(text: Mapping[str, Any]) -> None:
    """Check that a text tower is SigLIP's: no mask, read at the last position, a projection with a bias.

    Raises:
        UserError: it is another; the message names the field.
    """
    if text.get("hf_model_name"):
        raise UserError(f"its text tower is {shown(text['hf_model_name'])}, not SigLIP's; {SUPPORTED}")
    for field, value in (("no_causal_mask", True), ("pool_type", "last"), ("proj_bias", True)):
        if text.get(field) != value:
            found = shown(text.get(field))
            raise UserError(f"open_clip_config.json: text_cfg.{field} is {found}, in a SigLIP {value!r}; {SUPPORTED}")


def check_vision(vision: Mapping[str, Any]) -> None:
    """Check that an image tower's pooling and projection are SigLIP's.

    Raises:
        UserError: they are not; the message names the field.
    """
    for field, values in (("timm_pool", ("map",)), ("timm_proj", ("none", None, ""))):
        if vision.get(field) not in values:
            raise UserError(
                f"open_clip_config.json: vision_cfg.{field} is {shown(vision.get(field))}, in a SigLIP {values[0]!r}; "
                f"{SUPPORTED}"
            )
