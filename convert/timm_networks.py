"""Networks that open_clip trains with image towers of timm's, by name: Perception Encoders and MobileCLIPs.

What was done to images is that of the published weights, with which people begin. The exact GELU is the activation of
all of them; open_clip's `quick_gelu` changes that of the text tower.

>>> describe("PE-Core-B-16")["model_cfg"]["vision_cfg"]["timm_model_name"]
'vit_pe_core_base_patch16_224'
"""

from __future__ import annotations

from typing import Any

from sharpzo_mlx.images.preprocessor import CLIP_MEAN, CLIP_STD

from . import mobileclip, perception

PERCEPTION = {  # name -> width of the joint space; timm's name; text: layers, width
    "PE-Core-T-16-384": (512, "vit_pe_core_tiny_patch16_384", (12, 512)),
    "PE-Core-S-16-384": (512, "vit_pe_core_small_patch16_384", (12, 512)),
    "PE-Core-B-16": (1024, "vit_pe_core_base_patch16_224", (24, 1024)),
    "PE-Core-L-14-336": (1024, "vit_pe_core_large_patch14_336", (24, 1024)),
}
MOBILE = {
    "MobileCLIP-S1": (512, "fastvit_mci1", (12, 512)),
    "MobileCLIP-S2": (512, "fastvit_mci2", (12, 512)),
    "MobileCLIP-B": (512, mobileclip.VIT, (12, 512)),
    "MobileCLIP2-S0": (512, "fastvit_mci0", (12, 512)),
    "MobileCLIP2-S2": (512, "fastvit_mci2", (12, 512)),
    "MobileCLIP2-B": (512, mobileclip.VIT, (12, 512)),
    "MobileCLIP2-S3": (768, "fastvit_mci3", (12, 768)),
    "MobileCLIP2-S4": (768, "fastvit_mci4", (12, 768)),
}
NAMES = (*PERCEPTION, *MOBILE)
_TOKENS = {True: 32, False: 77}  # of a text, in a Perception Encoder and in a MobileCLIP
_WORDS = 49408


def describe(name: str) -> dict[str, Any]:
    """Return what an `open_clip_config.json` of a network holds, one of `NAMES`."""
    meta = name in PERCEPTION
    joint, tower, (layers, width) = (PERCEPTION if meta else MOBILE)[name]
    pool = "map" if meta else "token" if tower == mobileclip.VIT else "avg"
    text = {"context_length": _TOKENS[meta], "vocab_size": _WORDS, "width": width, "heads": max(1, width // 64)}
    text |= {"layers": layers, "no_causal_mask": pool == "avg"}
    vision = {"timm_model_name": tower, "timm_pool": pool, "timm_proj": None}
    return {
        "model_cfg": {"embed_dim": joint, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": dict(perception.PIXELS) if meta else _pixels(large=tower in ("fastvit_mci3", "fastvit_mci4")),
    }


def _pixels(*, large: bool) -> dict[str, Any]:
    """Return how images are prepared for a MobileCLIP; only the large ones subtract a mean."""
    mean, std = (CLIP_MEAN, CLIP_STD) if large else ((0.0,) * 3, (1.0,) * 3)
    return {"mean": list(mean), "std": list(std), "interpolation": "bilinear", "resize_mode": "shortest"}
