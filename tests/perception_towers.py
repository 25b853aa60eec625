"""A small image tower of the Perception Encoder's kind: timm's network with random weights, in both spellings."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from sharpzo_mlx.convert import perception

GOLDEN = Path(__file__).parent / "golden" / "perception.safetensors"
NAME, HEAD = "vit_pe_core_small_patch8_24", 16
SIDE, PATCH, WIDTH, JOINT, LAYERS = 24, 8, 32, 16, 2
TEXT = {"context_length": 32, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1}
MODEL = {"embed_dim": JOINT, "vision_cfg": {"timm_model_name": NAME, "timm_pool": "map"}, "text_cfg": TEXT}
META = {  # our timm's names -> Meta's
    "patch_embed.proj": "conv1",
    "norm_pre": "ln_pre",
    "norm": "ln_post",
    "norm1": "ln_1",
    "norm2": "ln_2",
    "attn.proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def know_the_small_tower(patch: pytest.MonkeyPatch) -> None:
    """Let conversions know the small tower by a name of timm's kind."""
    patch.setitem(perception.SIZES, NAME, (WIDTH, LAYERS, PATCH, SIDE))
    patch.setattr(perception, "HEAD", HEAD)


def make_tower() -> Any:
    """Return timm's network with random weights; `timm` must be loaded."""
    import torch
    from timm.layers import LayerNorm
    from timm.models.eva import Eva

    tower = Eva(
        img_size=SIDE,
        patch_size=PATCH,
        embed_dim=WIDTH,
        depth=LAYERS,
        num_heads=WIDTH // HEAD,
        global_pool="map",
        attn_type="rope",
        use_pre_transformer_norm=True,
        use_rot_pos_emb=True,
        ref_feat_shape=(SIDE // PATCH,) * 2,
        rope_grid_offset=1.0,
        rope_grid_indexing="xy",
        attn_pool_num_heads=8,
        attn_pool_mlp_ratio=4.0,
        norm_layer=partial(LayerNorm, eps=1e-5),
        num_classes=JOINT,
    )
    shake(tower)
    with torch.no_grad():
        tower.head.bias.zero_()  # Meta's has none
    return tower.eval()


def shake(model: Any) -> Any:
    """Give every weight a value that matters, and leave buffers, such as masks, as they are."""
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim > 1:
                value.normal_(0, (2 / max(1, value[0].numel())) ** 0.5)
            elif value.ndim:
                value.add_(torch.randn_like(value) * 0.2)
    return model.eval()


def load_golden() -> tuple[dict[str, mx.array], np.ndarray]:
    """Return the tower's tensors with timm's names, and the features that timm gave, of unit norm."""
    tensors = mx.load(str(GOLDEN))
    assert isinstance(tensors, dict)
    expected = np.array(tensors.pop("expected"))
    return tensors, expected / np.linalg.norm(expected, axis=1, keepdims=True)


def write_open_clip(folder: Path, trunk: dict[str, mx.array]) -> Path:
    """Write a folder as timm's repositories on the hub have it, with a random text tower."""
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL}))
    images = {f"visual.trunk.{name}": value for name, value in trunk.items()}
    texts = {f"text.{name}": value for name, value in random_texts().items()}
    mx.save_safetensors(str(folder / "open_clip_model.safetensors"), images | texts | {"logit_scale": mx.array(2.5)})
    return folder


def random_texts() -> dict[str, mx.array]:
    """Return a random text tower with OpenAI's names."""
    draw = np.random.default_rng(4)
    width, words = TEXT["width"], TEXT["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "token_embedding.weight": (words, width),
        "positional_embedding": (TEXT["context_length"], width),
    }
    shapes |= {"text_projection": (width, JOINT), "ln_final.weight": (width,), "ln_final.bias": (width,)}
    block = "transformer.resblocks.0."
    shapes |= {f"{block}attn.in_proj_weight": (3 * width, width), f"{block}attn.in_proj_bias": (3 * width,)}
    shapes |= {f"{block}attn.out_proj.weight": (width, width), f"{block}attn.out_proj.bias": (width,)}
    shapes |= {f"{block}mlp.c_fc.weight": (4 * width, width), f"{block}mlp.c_fc.bias": (4 * width,)}
    shapes |= {f"{block}mlp.c_proj.weight": (width, 4 * width), f"{block}mlp.c_proj.bias": (width,)}
    shapes |= {f"{block}ln_{number}.{kind}": (width,) for number in (1, 2) for kind in ("weight", "bias")}
    return {name: mx.array(draw.normal(0, 0.4, shape).astype(np.float32)) for name, shape in shapes.items()}


def as_meta(trunk: dict[str, mx.array]) -> dict[str, np.ndarray]:
    """Return a tower of timm's in the spelling of Meta's own files."""
    found: dict[str, np.ndarray] = {}
    for name, value in trunk.items():
        array = np.array(value)
        module, _, kind = name.rpartition(".")
        if module.startswith("blocks."):
            _, layer, part = module.split(".", 2)
            start = f"visual.transformer.resblocks.{layer}."
            found[f"{start}attn.in_proj_{kind}" if part == "attn.qkv" else f"{start}{META[part]}.{kind}"] = array
        elif module in META:
            found[f"visual.{META[module]}.{kind}"] = array
        elif name in ("cls_token", "pos_embed"):
            found["visual." + {"cls_token": "class_embedding", "pos_embed": "positional_embedding"}[name]] = (
                array.reshape(array.shape[1:]) if name == "pos_embed" else array.reshape(-1)
            )
        elif module.startswith("attn_pool.mlp"):
            found[f"visual.attn_pool.{META[module.removeprefix('attn_pool.')]}.{kind}"] = array
        elif module in ("attn_pool.proj", "attn_pool.norm"):
            found[f"visual.attn_pool.{'attn.out_proj' if module.endswith('proj') else 'layernorm'}.{kind}"] = array
    for kind in ("weight", "bias"):
        parts = [np.array(trunk[f"attn_pool.{one}.{kind}"]) for one in ("q", "kv")]
        found[f"visual.attn_pool.attn.in_proj_{kind}"] = np.concatenate(parts)
    found["visual.attn_pool.probe"] = np.array(trunk["attn_pool.latent"])
    found["visual.proj"] = np.ascontiguousarray(np.array(trunk["head.weight"]).T)
    return found
