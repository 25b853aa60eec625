"""Rename the end of a Perception Encoder's image tower in Meta's own spelling; the rest has the names of OpenAI's CLIP.

>>> sorted(take_pool({"visual.attn_pool.probe": mx.zeros((1, 1, 2)), "visual.proj": mx.zeros((2, 3))}))
['vision_model.head.probe', 'visual_projection.bias']
"""

from __future__ import annotations

import mlx.core as mx

from .perception import PROBE
from .timm_vit_names import POOL, split

_START, _PROJECTION = "visual.attn_pool.", "visual.proj"
_MODULES = {
    "attn.out_proj": "attention.out_proj",
    "layernorm": "layernorm",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def take_pool(plain: dict[str, mx.array]) -> dict[str, mx.array]:
    """Take the attention pooling out of `plain` and return it with our names; nothing where there is no probe.

    Meta's projection has no bias. Ours, like open_clip's, has one, which becomes zero.
    """
    if PROBE not in plain:
        return {}
    found = {f"{POOL}.probe": plain.pop(PROBE).reshape(-1)}
    for name in [name for name in plain if name.startswith(_START)]:
        module, _, kind = name.removeprefix(_START).rpartition(".")
        if module in _MODULES:
            found[f"{POOL}.{_MODULES[module]}.{kind}"] = plain.pop(name)
        elif name.startswith(f"{_START}attn.in_proj_"):
            found |= split(plain.pop(name), f"{POOL}.attention", "in_proj", name.rpartition("_")[2])
    if (projection := plain.get(_PROJECTION)) is not None and projection.ndim:
        found["visual_projection.bias"] = mx.zeros(projection.shape[-1:], projection.dtype)
    return found
