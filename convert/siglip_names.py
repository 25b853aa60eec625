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
from .timm_vit_names import POOL, TRUNK, rename_trunk, split


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
        trunk = {name.removeprefix(TRUNK): value for name, value in plain.items() if name.startswith(TRUNK)}
        plain = open_clip_names.rename(rest) | rename_trunk(trunk)
    found: dict[str, mx.array] = {}
    for name, value in plain.items():
        if name in ("logit_scale", "logit_bias") and value.size == 1:
            found[name] = value.reshape(())
        elif name == f"{POOL}.probe":
            found[name] = value.reshape(-1)
        elif name.startswith(f"{POOL}.attention.in_proj_"):
            found |= split(value, f"{POOL}.attention", "in_proj", name.rpartition("_")[2])
        else:
            found[re.sub(r"^text_model\.head\.", "text_projection.", name)] = value
    return found
