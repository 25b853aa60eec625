"""Rename the tensors of a SigLIP, in transformers' or open_clip's spelling, to ours.

Ours are transformers' names with two differences: the text tower's last product is `text_projection`, as in a CLIP, and
the packed map of the attention pooling is stored as three. open_clip keeps timm's image tower under `visual.trunk.`;
its text tower has the names of its CLIPs.

>>> sorted(rename({"text_model.head.bias": mx.zeros(2), "logit_bias": mx.zeros(1)}))
['logit_bias', 'text_projection.bias']
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import mlx.core as mx

from . import open_clip_names

TRUNK = "visual.trunk."
_POOL = "vision_model.head"
_SPLIT = {"in_proj": ("q_proj", "k_proj", "v_proj"), "qkv": ("q_proj", "k_proj", "v_proj"), "kv": ("k_proj", "v_proj")}
_TRUNK = {
    "patch_embed.proj": "embeddings.patch_embedding",
    "norm": "post_layernorm",
    "attn_pool.q": "head.attention.q_proj",
    "attn_pool.proj": "head.attention.out_proj",
    "attn_pool.norm": "head.layernorm",
    "attn_pool.mlp.fc1": "head.mlp.fc1",
    "attn_pool.mlp.fc2": "head.mlp.fc2",
}
_BLOCK = {"norm1": "layer_norm1", "norm2": "layer_norm2", "attn.proj": "self_attn.out_proj"}
_BLOCKS = re.compile(r"blocks\.(\d+)\.(.+)")


def rename(weights: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """Change a SigLIP's tensors to our names and shapes; convolutions stay channels first.

    Args:
        weights: name -> tensor, in either spelling; also the names of a training checkpoint ("module.").

    Returns:
        Our name -> tensor; a name that is in no SigLIP stays as it is, for the strict check that follows.
    """
    plain = {name.removeprefix("module."): value for name, value in weights.items()}
    if any(name.startswith(TRUNK) for name in plain):
        rest = {name: value for name, value in plain.items() if not name.startswith(TRUNK)}
        plain = open_clip_names.rename(rest) | _rename_trunk(plain)
    found: dict[str, mx.array] = {}
    for name, value in plain.items():
        if name in ("logit_scale", "logit_bias") and value.size == 1:
            found[name] = value.reshape(())
        elif name == f"{_POOL}.probe":
            found[name] = value.reshape(-1)
        elif name.startswith(f"{_POOL}.attention.in_proj_"):
            found |= _split(value, f"{_POOL}.attention", "in_proj", name.rpartition("_")[2])
        else:
            found[re.sub(r"^text_model\.head\.", "text_projection.", name)] = value
    return found


def _rename_trunk(weights: Mapping[str, mx.array]) -> dict[str, mx.array]:
    found: dict[str, mx.array] = {}
    for name, value in weights.items():
        if not name.startswith(TRUNK):
            continue
        module, _, kind = name.removeprefix(TRUNK).rpartition(".")
        if block := _BLOCKS.fullmatch(module):
            layer = f"vision_model.encoder.layers.{block[1]}"
            if block[2] == "attn.qkv":
                found |= _split(value, f"{layer}.self_attn", "qkv", kind)
            else:
                found[f"{layer}.{_BLOCK.get(block[2], block[2])}.{kind}"] = value
        elif module == "attn_pool.kv":
            found |= _split(value, f"{_POOL}.attention", "kv", kind)
        elif name == f"{TRUNK}pos_embed":
            found["vision_model.embeddings.position_embedding.weight"] = value.reshape(value.shape[-2:])
        elif name == f"{TRUNK}attn_pool.latent":
            found[f"{_POOL}.probe"] = value
        else:
            found[f"vision_model.{_TRUNK[module]}.{kind}" if module in _TRUNK else name] = value
    return found


def _split(value: mx.array, where: str, packed: str, kind: str) -> dict[str, mx.array]:
    """Split a packed map; one whose rows do not divide stays whole, for the strict check that follows."""
    parts = _SPLIT[packed]
    if not value.ndim or value.shape[0] % len(parts):
        return {f"{where}.{packed}_{kind}": value}
    return {f"{where}.{name}.{kind}": part for name, part in zip(parts, mx.split(value, len(parts)), strict=True)}
