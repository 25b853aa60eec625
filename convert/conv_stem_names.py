"""Bring timm's ViT with a convolutional stem (MobileCLIP-B) to ours: the stem is folded, the rest is renamed.

Its positions are not added to the class token: our table has a row of zeros for it.

>>> find_layer("blocks.3.norm1.bias")
'encoder.layers.3.layer_norm1.bias'
"""

from __future__ import annotations

import re

import mlx.core as mx

from sharpzo_mlx.errors import UserError

from .fastvit_names import TOWER
from .folding import Kernel, Parts

STEM = "patch_embed.backbone."
_LAYER = {"norm1": "layer_norm1", "norm2": "layer_norm2", "attn.proj": "self_attn.out_proj", "attn.qkv": "qkv"}
_BLOCK = re.compile(r"blocks\.(\d{1,4})\.(.+)\.(weight|bias)")
_OTHERS = {"norm": f"{TOWER}.post_layernorm", "head": "visual_projection"}


def rename_conv_stem(trunk: dict[str, mx.array]) -> dict[str, mx.array]:
    """Fold and rename a ViT whose patches three convolutions cut.

    Args:
        trunk: timm's name -> tensor; emptied as far as the names are known.

    Returns:
        Our name -> tensor in its own dtype, the stem channels last. Unknown tensors keep their names, for the strict
        check that follows.

    Raises:
        UserError: a tensor is missing or has an impossible shape; the message has no file name.
    """
    parts = Parts(trunk)
    found: dict[str, mx.array] = {}
    for step in range(3):
        found |= _stem(parts, step)
    start, positions = parts.take("cls_token", 3), parts.take("pos_embed", 3)
    if start.shape[:2] != (1, 1) or positions.shape[0] != 1 or positions.shape[2] != start.shape[2]:
        raise UserError(f"cls_token and pos_embed have the shapes {start.shape} and {positions.shape}, of no such ViT")
    start = start[0].astype(positions.dtype)
    found[f"{TOWER}.embeddings.class_embedding"] = start[0]
    found[f"{TOWER}.embeddings.position_embedding.weight"] = mx.concatenate([mx.zeros_like(start), positions[0]])
    for name, tensor in trunk.items():
        found |= _rename(name, tensor)
    return found


def _stem(parts: Parts, step: int) -> dict[str, mx.array]:
    foreign, ours = f"{STEM}{step}", f"{TOWER}.embeddings.patch_embedding.convolutions.{step}"
    dtype = parts.weights.get(f"{foreign}.conv.weight", mx.zeros(())).dtype
    normed = f"{foreign}.bn.running_mean" in parts
    kernel: Kernel = parts.normed(foreign) if normed else parts.plain(f"{foreign}.conv")
    weight, bias = kernel.weight.transpose(0, 2, 3, 1), kernel.bias
    return {f"{ours}.weight": mx.array(weight).astype(dtype), f"{ours}.bias": mx.array(bias).astype(dtype)}


def find_layer(name: str) -> str | None:
    """Return our name, within the tower, of a tensor of a layer; None for other tensors."""
    if not (block := _BLOCK.fullmatch(name)):
        return None
    return f"encoder.layers.{block[1]}.{_LAYER.get(block[2], block[2])}.{block[3]}"


def _rename(name: str, tensor: mx.array) -> dict[str, mx.array]:
    module, _, kind = name.rpartition(".")
    if module in _OTHERS:
        return {f"{_OTHERS[module]}.{kind}": tensor}
    layer = find_layer(name)
    if layer is None:
        return {f"visual.trunk.{name}": tensor}
    if ".qkv." not in layer or tensor.shape[0] % 3:
        return {f"{TOWER}.{layer}": tensor}
    parts = zip("qkv", mx.split(tensor, 3), strict=True)
    return {f"{TOWER}.{layer.replace('qkv', f'self_attn.{letter}_proj')}": part for letter, part in parts}
