"""The device that MLX computes on by default.

>>> on_cpu()  # doctest: +SKIP
False
"""

from __future__ import annotations

import mlx.core as mx

_WITHOUT_BFLOAT16 = ("applegpu_g13", "applegpu_g14")  # M1 and M2; M3 is applegpu_g15


def on_cpu() -> bool:
    """Return whether MLX's default device is the CPU (True on Linux without CUDA, False on a Mac's GPU)."""
    return bool(mx.default_device() == mx.Device(mx.cpu))


def has_bfloat16() -> bool:
    """Return whether the default device multiplies bfloat16 itself; the GPUs of M1 and M2 take twice as long."""
    return not str(mx.device_info().get("architecture", "")).startswith(_WITHOUT_BFLOAT16)
