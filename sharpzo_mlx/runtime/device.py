"""The device that MLX computes on by default.

>>> on_cpu()  # doctest: +SKIP
False
"""

from __future__ import annotations

import mlx.core as mx


def on_cpu() -> bool:
    """Return whether MLX's default device is the CPU (True on Linux without CUDA, False on a Mac's GPU)."""
    return bool(mx.default_device() == mx.Device(mx.cpu))
