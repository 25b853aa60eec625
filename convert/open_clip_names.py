"""Rename the tensors of OpenAI's and open_clip's CLIPs to ours.

Both libraries share one tree of names (`visual.`, `transformer.resblocks.`), keep queries, keys and values in one
tensor, and multiply by projections from the right.

>>> rename({"ln_final.bias": mx.zeros(2)})
{'text_model.final_layer_norm.bias': array([0, 0], dtype=float32)}
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import mlx.core as mx

from .conv_stem_names import STEM, rename_conv_stem
from .fastvit_names import fold_fastvit
from .perception_names import take_pool
from .timm_vit_names import TRUNK, rename_trunk

_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_TEXT = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
_VIT = {
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "ln_pre.weight": "pre_layrnorm.weight",
    "ln_pre.bias": "pre_layrnorm.bias",
    "ln_post.weight": "post_layernorm.weight",
    "ln_post.bias": "post_layernorm.bias",
}
_PROJECTIONS = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}
_BUFFERS = ("attn_mask", "num_batches_tracked", "input_resolution", "context_length", "vocab_size")
_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)")


def has_open_clip_names(names: Iterable[str]) -> bool:
    """Tell whether tensors have OpenAI's names."""
    return any(name.startswith(("visual.", "transformer.resblocks.")) for name in names)


def rename(weights: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """Change tensors from OpenAI's names and shapes to ours; convolutions stay channels first.

    Args:
        weights: OpenAI's or open_clip's name -> tensor; also the names of a text tower under "text.".

    Returns:
        Our name -> tensor; a name that is in no CLIP stays as it is, for the strict check that follows.
    """
    found: dict[str, mx.array] = {}
    plain = {name.removeprefix("text."): value for name, value in weights.items()}
    resnet = any(name.startswith("visual.layer1.") for name in plain)
    found |= _rename_trunk(plain)
    found |= take_pool(plain)
    for name, value in plain.items():
        if name.rpartition(".")[2] in _BUFFERS:
            continue
        if name == "logit_scale":
            found[name] = value.reshape(()) if value.size == 1 else value
        elif name in _PROJECTIONS:
            found[_PROJECTIONS[name]] = value.T
        elif block := _BLOCK.fullmatch(name):
            found |= _rename_block(value, "vision_model" if block[1] else "text_model", block[2], block[3])
        elif name.startswith("visual."):
            found[_rename_visual(name.removeprefix("visual."), resnet)] = value
        else:
            found[_TEXT.get(name, name)] = value
    return found


def _rename_trunk(plain: dict[str, mx.array]) -> dict[str, mx.array]:
    """Take an image tower of timm's out of `plain` and return it with our names, folded."""
    names = [name for name in plain if name.startswith(TRUNK) and name.rpartition(".")[2] not in _BUFFERS]
    trunk = {name.removeprefix(TRUNK): plain.pop(name) for name in names}
    if any(name.startswith("stem.") for name in trunk):
        return fold_fastvit(trunk)
    return rename_conv_stem(trunk) if any(name.startswith(STEM) for name in trunk) else rename_trunk(trunk)


def _rename_block(value: mx.array, tower: str, layer: str, name: str) -> dict[str, mx.array]:
    start = f"{tower}.encoder.layers.{layer}"
    if name in ("attn.in_proj_weight", "attn.in_proj_bias") and value.shape[0] % 3 == 0:
        kind = name.rpartition("_")[2]
        parts = zip("qkv", mx.split(value, 3), strict=True)
        return {f"{start}.self_attn.{letter}_proj.{kind}": part for letter, part in parts}
    module, _, kind = name.rpartition(".")
    return {f"{start}.{_LAYER.get(module, module)}.{kind}": value}


def _rename_visual(name: str, resnet: bool) -> str:
    if resnet:
        pooled = name.removeprefix("attnpool.c_proj.")
        return f"vision_model.{name}" if pooled == name else f"visual_projection.{pooled}"
    return f"vision_model.{_VIT.get(name, name)}"
