"""Rename the tensors of timm's ViTs with attention pooling (of SigLIP and the Perception Encoder) to ours.

>>> sorted(rename_trunk({"norm.bias": mx.zeros(2), "blocks.0.attn.qkv.bias": mx.zeros(3)}))[0]
'vision_model.encoder.layers.0.self_attn.k_proj.bias'
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import mlx.core as mx

POOL = "vision_model.head"
TRUNK = "visual.trunk."
LATENT = "attn_pool.latent"  # the probe
_SPLIT = {"in_proj": ("q_proj", "k_proj", "v_proj"), "qkv": ("q_proj", "k_proj", "v_proj"), "kv": ("k_proj", "v_proj")}
_MODULES = {
    "patch_embed.proj": "vision_model.embeddings.patch_embedding",
    "norm_pre": "vision_model.pre_layrnorm",
    "norm": "vision_model.post_layernorm",
    "attn_pool.q": f"{POOL}.attention.q_proj",
    "attn_pool.proj": f"{POOL}.attention.out_proj",
    "attn_pool.norm": f"{POOL}.layernorm",
    "attn_pool.mlp.fc1": f"{POOL}.mlp.fc1",
    "attn_pool.mlp.fc2": f"{POOL}.mlp.fc2",
    "head": "visual_projection",
}
_BLOCK = {"norm1": "layer_norm1", "norm2": "layer_norm2", "attn.proj": "self_attn.out_proj"}
_BLOCKS = re.compile(r"blocks\.(\d+)\.(.+)")


def rename_trunk(trunk: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """Rename an image tower of timm's.

    Args:
        trunk: timm's name -> tensor.

    Returns:
        Our name -> tensor; convolutions stay channels first. Unknown tensors keep their names in open_clip, for the
        strict check that follows.
    """
    found: dict[str, mx.array] = {}
    for name, value in trunk.items():
        module, _, kind = name.rpartition(".")
        if block := _BLOCKS.fullmatch(module):
            layer = f"vision_model.encoder.layers.{block[1]}"
            if block[2] == "attn.qkv":
                found |= split(value, f"{layer}.self_attn", "qkv", kind)
            else:
                found[f"{layer}.{_BLOCK.get(block[2], block[2])}.{kind}"] = value
        elif module == "attn_pool.kv":
            found |= split(value, f"{POOL}.attention", "kv", kind)
        elif name == "pos_embed" and value.ndim:
            found["vision_model.embeddings.position_embedding.weight"] = value.reshape(value.shape[-2:])
        elif name == "cls_token":
            found["vision_model.embeddings.class_embedding"] = value.reshape(-1)
        elif name == LATENT:
            found[f"{POOL}.probe"] = value.reshape(-1)
        else:
            found[f"{_MODULES[module]}.{kind}" if module in _MODULES else f"{TRUNK}{name}"] = value
    return found


def split(value: mx.array, where: str, packed: str, kind: str) -> dict[str, mx.array]:
    """Split a packed map; one whose rows do not divide stays whole, for the strict check that follows.

    Args:
        value: the map's weight or bias.
        where: our name of the attention.
        packed: "in_proj" or "qkv" of three maps, "kv" of two.
        kind: "weight" or "bias".
    """
    parts = _SPLIT[packed]
    if not value.ndim or value.shape[0] % len(parts):
        return {f"{where}.{packed}_{kind}": value}
    return {f"{where}.{name}.{kind}": part for name, part in zip(parts, mx.split(value, len(parts)), strict=True)}
