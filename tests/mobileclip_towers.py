"""Small image towers of MobileCLIP's kinds: timm's networks with random weights, and our descriptions of them."""

from __future__ import annotations

from functools import partial
from typing import Any

import mlx.core as mx

FASTVITS: dict[str, dict[str, Any]] = {
    "squeezed": {
        "layers": [1, 2, 1, 1],
        "widths": [8, 16, 16, 32],
        "mlp_ratio": 3,
        "attention_stages": 1,
        "squeezed_stages": 2,
        "layer_norm": False,
    },
    "five stages": {
        "layers": [1, 1, 1, 1, 1],
        "widths": [8, 8, 16, 32, 32],
        "mlp_ratio": 4,
        "attention_stages": 2,
        "squeezed_stages": 0,
        "layer_norm": True,
    },
}
CONV_STEM: dict[str, Any] = {
    "model_type": "clip_vision_conv_stem_model",
    "hidden_size": 32,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 48,
    "patch_size": 16,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
}
SIDE, WIDTH = 64, 16  # pixels of an image, numbers of a feature
NAMES = (*FASTVITS, "stem")


def describe(name: str) -> dict[str, Any]:
    """Return our `config.json` of a CLIP with this image tower and the tests' smallest text tower."""
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = {"vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513, "hidden_act": "gelu", "pad_token_id": 0}
    tower = CONV_STEM if name == "stem" else FASTVITS[name] | {"model_type": "fastvit_mci_model", "image_size": SIDE}
    return {
        "model_type": "clip",
        "projection_dim": WIDTH,
        "text_config": text | words | {"causal": name == "stem"},
        "vision_config": tower,
    }


def make_tower(name: str) -> Any:
    """Return timm's network with random weights and random statistics of its batch norms; `timm` must be loaded."""
    return randomise(_make_stem() if name == "stem" else _make_fastvit(FASTVITS[name]))


def _make_fastvit(tower: dict[str, Any]) -> Any:
    from timm.layers import LayerNorm2d
    from timm.models.fastvit import FastVit, RepConditionalPosEnc
    from torch import nn

    stages, attention = len(tower["layers"]), tower["attention_stages"]
    plain, squeezed = stages - attention, stages - tower["squeezed_stages"]
    return FastVit(
        layers=tower["layers"],
        embed_dims=tower["widths"],
        mlp_ratios=[tower["mlp_ratio"]] * stages,
        token_mixers=["repmixer"] * plain + ["attention"] * attention,
        downsamples=[stage > 0 for stage in range(stages)],
        se_downsamples=[stage >= squeezed for stage in range(stages)],
        pos_embs=[None] * plain + [partial(RepConditionalPosEnc, spatial_shape=(7, 7))] * attention,
        norm_layer=partial(LayerNorm2d, eps=1e-5) if tower["layer_norm"] else nn.BatchNorm2d,
        stem_use_scale_branch=not tower["layer_norm"],
        lkc_use_act=True,
        num_classes=WIDTH,
    )


def _make_stem() -> Any:
    from timm.layers import HybridEmbed
    from timm.models.vision_transformer import VisionTransformer
    from timm.models.vision_transformer_hybrid import ConvStem
    from torch import nn

    width = CONV_STEM["hidden_size"]
    stem = ConvStem(
        channels=(width // 4, width // 4, width), stride=(4, 2, 2), kernel_size=(4, 2, 2), padding=0, act_layer=nn.GELU
    )
    return VisionTransformer(
        img_size=CONV_STEM["image_size"],
        patch_size=1,
        embed_layer=partial(HybridEmbed, backbone=stem, proj=False),
        embed_dim=width,
        depth=CONV_STEM["num_hidden_layers"],
        num_heads=CONV_STEM["num_attention_heads"],
        no_embed_class=True,
        global_pool="token",
        num_classes=WIDTH,
    )


def randomise(model: Any) -> Any:
    """Give every weight and every statistic of a network a value that matters, and set it to evaluation."""
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0)
            elif name.endswith("running_mean"):
                value.normal_(0, 0.3)
            elif "gamma" in name:
                value.uniform_(0.3, 1.0)
            elif value.dtype == torch.float32 and value.ndim > 1:
                value.normal_(0, (2 / max(1, value[0].numel())) ** 0.5)
            elif value.dtype == torch.float32 and value.ndim:
                value.add_(torch.randn_like(value) * 0.2)
    return model.eval()


def tensors_of(model: Any, prefix: str = "") -> dict[str, mx.array]:
    """Return a torch network's floating tensors by their names."""
    state = model.state_dict()
    return {prefix + name: mx.array(value.numpy()) for name, value in state.items() if value.is_floating_point()}
