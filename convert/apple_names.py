"""Rename the tensors of Apple's own MobileCLIP files (`mobileclip_s1.pt`) to those of open_clip.

Apple's image towers are one flat list of blocks and downsamplings (`network.N`), and both of their kinds of transformer
layers are lists too (`pre_norm_mha.0`). Projections multiply from the right and have no summand.

>>> rename({"text_encoder.final_layer_norm.bias": mx.zeros(1)})
{'text.ln_final.bias': array([0], dtype=float32)}
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping

import mlx.core as mx

from sharpzo_mlx.clip.catalog import S0_REMEDY
from sharpzo_mlx.errors import UserError

IMAGES, TEXTS, TRUNK = "image_encoder.model.", "text_encoder.", "visual.trunk."
_MIXED = re.compile(r"text_encoder\.transformer\.\d+\.(token_mixer|convffn|layer_scale)")  # convolutions among words
_DOWN = re.compile(r"network\.(\d{1,4})\.proj\.")
_NETWORK = re.compile(r"network\.(\d{1,4})\.(.+)")
_LAYERS = (
    ("pre_norm_mha.0.", "norm1."),
    ("pre_norm_mha.1.qkv_proj.", "attn.qkv."),
    ("pre_norm_mha.1.out_proj.", "attn.proj."),
    ("pre_norm_ffn.0.", "norm2."),
    ("pre_norm_ffn.1.", "mlp.fc1."),
    ("pre_norm_ffn.4.", "mlp.fc2."),
)
_VIT = (
    ("patch_emb.", "patch_embed.backbone."),
    ("block.conv.", "conv."),
    ("block.norm.", "bn."),
    ("post_transformer_norm.", "norm."),
    ("transformer.", "blocks."),
    *_LAYERS,
)
_TEXT = (
    ("embedding_layer.", "token_embedding."),
    ("final_layer_norm.", "ln_final."),
    ("transformer.", "transformer.resblocks."),
    ("pre_norm_mha.0.", "ln_1."),
    ("pre_norm_mha.1.qkv_proj.", "attn.in_proj_"),
    ("pre_norm_mha.1.out_proj.", "attn.out_proj."),
    ("pre_norm_ffn.0.", "ln_2."),
    ("pre_norm_ffn.1.", "mlp.c_fc."),
    ("pre_norm_ffn.4.", "mlp.c_proj."),
)
_FASTVIT = (
    ("patch_embed.", "stem."),
    ("rbr_conv.", "conv_kxk."),
    ("rbr_scale.", "conv_scale."),
    ("rbr_skip.", "identity."),
    ("lkb_origin.", "large_conv."),
    ("lkb_reparam.", "reparam_conv."),
    ("conv_exp.", "final_conv."),
    ("convffn.", "mlp."),
    ("se.reduce.", "se.fc1."),
    ("se.expand.", "se.fc2."),
)
_SCALE = re.compile(r"layer_scale(_[12])?$")


def has_apples_names(names: Iterable[str]) -> bool:
    """Tell whether tensors have the names of Apple's own files."""
    return any(name.startswith((IMAGES, TEXTS)) for name in names)


def rename(weights: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """Change tensors from Apple's names and shapes to open_clip's.

    Args:
        weights: Apple's name -> tensor.

    Returns:
        open_clip's name -> tensor, with timm's names in the image tower. An unknown name stays.

    Raises:
        UserError: the text tower is that of MobileCLIP-S0; the message has no file name.
    """
    if any(_MIXED.match(name) for name in weights):
        raise UserError(f"it is MobileCLIP-S0, whose text tower (mct) mixes words by convolutions; {S0_REMEDY}")
    starts = sorted({int(match[1]) for name in weights if (match := _DOWN.match(name.removeprefix(IMAGES)))})
    found: dict[str, mx.array] = {}
    for name, tensor in weights.items():
        if name.startswith(IMAGES):
            found |= _rename_image(name.removeprefix(IMAGES), tensor, starts)
        elif name.startswith(TEXTS):
            found |= _rename_text(name.removeprefix(TEXTS), tensor)
        else:
            found[name] = tensor
    return found


def _rename_image(name: str, tensor: mx.array, starts: Collection[int]) -> dict[str, mx.array]:
    if name in ("head.proj", "classifier.proj") and tensor.ndim == 2:
        head = f"{TRUNK}{'head.fc' if name == 'head.proj' else 'head'}"
        return {f"{head}.weight": tensor.T, f"{head}.bias": mx.zeros((tensor.shape[1],), tensor.dtype)}
    if name == "pos_embed.pos_embed.pos_embed":
        return {f"{TRUNK}pos_embed": tensor.reshape(1, *tensor.shape[-2:])}
    if name.startswith(("patch_emb.", "transformer.", "post_transformer_norm.", "cls_token")):
        return {TRUNK + _replace(name, _VIT): tensor}
    name = _SCALE.sub(r"layer_scale\1.gamma", _place(_replace(name, _FASTVIT), starts))
    return {TRUNK + name: tensor}


def _place(name: str, starts: Collection[int]) -> str:
    """Return the place in a stage of a member of the flat list; `starts` are the members where stages begin."""
    if not (member := _NETWORK.fullmatch(name)):
        return name
    stage = f"stages.{bisect_right(list(starts), int(member[1]))}"
    if member[2].startswith("proj."):
        return f"{stage}.downsample.{member[2]}"
    if member[2].startswith(("pe.", "reparam_conv.")):
        return f"{stage}.pos_emb.{member[2].replace('pe.', 'pos_enc.', 1)}"
    return f"{stage}.blocks.{member[2]}"


def _rename_text(name: str, tensor: mx.array) -> dict[str, mx.array]:
    if name == "positional_embedding.pos_embed.pos_embed":
        return {"text.positional_embedding": tensor.reshape(tensor.shape[-2:])}
    if name == "projection_layer":
        return {"text.text_projection": tensor}
    return {f"text.{_replace(name, _TEXT)}": tensor}


def _replace(name: str, table: Iterable[tuple[str, str]]) -> str:
    for theirs, ours in table:
        name = name.replace(theirs, ours)
    return name
