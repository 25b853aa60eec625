"""Choose the type that stored weights are computed in on this device.

Half precision becomes float32 where it would be slower or less exact than its own rounding: on the CPU; in bfloat16 on
Apple's first two generations of chips, whose GPUs have no such type; and in towers of convolutions everywhere, because
Metal's convolutions transform an image's squares in the weights' type (Winograd), which makes float16 about thirty
times less exact than rounding to it. Every half number is a float32 number, so the cast itself changes nothing.

>>> computed_dtype(mx.float32, convolutional=True)
mlx.core.float32
"""

from __future__ import annotations

import mlx.core as mx

from sharpzo_mlx.runtime.device import on_cpu

HALF = (mx.float16, mx.bfloat16)
STORED = {"F16": mx.float16, "BF16": mx.bfloat16, "F32": mx.float32}  # names in a safetensors file
_WITHOUT_BFLOAT16 = ("applegpu_g13", "applegpu_g14")  # M1 and M2; M3 is applegpu_g15


def has_bfloat16() -> bool:
    """Return whether the default device multiplies bfloat16 itself; the GPUs of M1 and M2 take twice as long."""
    return not str(mx.device_info().get("architecture", "")).startswith(_WITHOUT_BFLOAT16)


def computed_dtype(stored: mx.Dtype, *, convolutional: bool) -> mx.Dtype:
    """Return the type to compute weights in.

    Args:
        stored: the type of the weights in the file.
        convolutional: whether they belong to a ResNet or a FastViT.
    """
    if stored not in HALF:
        return stored
    lacks = stored == mx.bfloat16 and not has_bfloat16()
    return mx.float32 if convolutional or on_cpu() or lacks else stored
