"""Descriptions of small open_clip models, for tests of the conversion."""

from __future__ import annotations

from typing import Any

TEXT = {"context_length": 77, "vocab_size": 514, "width": 64, "heads": 2, "layers": 2}
WHOLE = {"vocab_size": 49408}  # CLIP's own vocabulary, which needs no file
VIT = {"image_size": 32, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8}
RESNET = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 16, "head_width": 64, "patch_size": None}
MODELS: dict[str, dict[str, Any]] = {
    "vit quick": {"embed_dim": 16, "quick_gelu": True, "vision_cfg": VIT, "text_cfg": TEXT},
    "vit gelu": {"embed_dim": 16, "vision_cfg": VIT | {"mlp_ratio": 4.9231}, "text_cfg": TEXT},
    "vit tanh, other eps": {
        "embed_dim": 16,
        "vision_cfg": VIT | {"act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 1e-3}},
        "text_cfg": TEXT | {"act_kwargs": {"approximate": "tanh"}},
    },
    "no causal mask": {"embed_dim": 16, "vision_cfg": VIT, "text_cfg": TEXT | {"no_causal_mask": True} | WHOLE},
    "text tower of its own": {"embed_dim": 16, "vision_cfg": VIT, "text_cfg": TEXT, "custom_text": True},
    "resnet": {"embed_dim": 16, "quick_gelu": True, "vision_cfg": RESNET, "text_cfg": TEXT},
}
TIMM = {"architecture": "vit_base_patch16_clip_224", "num_classes": 512, "pretrained_cfg": {}}
