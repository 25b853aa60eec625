"""The device that MLX computes on by default: its own choice, or what the user names.

MLX chooses the GPU where it has one. SHARPZO_MLX_DEVICE, which is read when this module is imported, names the CPU or
the GPU instead. A program that calls `mx.set_default_device` afterwards has the last word.

>>> choose_device()  # does nothing without the variable
>>> on_cpu()  # doctest: +SKIP
False
"""

from __future__ import annotations

import os

import mlx.core as mx

from sharpzo_mlx.errors import UserError

DEVICE_VARIABLE = "SHARPZO_MLX_DEVICE"


def choose_device() -> None:
    """Make the device that $SHARPZO_MLX_DEVICE names MLX's default; MLX's own choice stays if it is not set.

    Raises:
        UserError: it names neither the CPU nor the GPU, or a GPU that is not there.
    """
    wanted = os.environ.get(DEVICE_VARIABLE, "")
    if wanted not in ("", "cpu", "gpu"):
        raise UserError(f"{DEVICE_VARIABLE}={wanted}: no such device; set it to cpu or gpu, or unset it")
    if wanted == "gpu" and not has_gpu():
        raise UserError(f"{DEVICE_VARIABLE}=gpu: MLX finds no GPU here; unset it, or set it to cpu")
    if wanted:
        mx.set_default_device(mx.cpu if wanted == "cpu" else mx.gpu)


def has_gpu() -> bool:
    """Return whether there is a GPU; `mx.metal.is_available` only tells that MLX was built for one."""
    return mx.device_count(mx.gpu) > 0


def on_cpu() -> bool:
    """Return whether MLX's default device is the CPU (True on Linux without CUDA, False on a Mac's GPU)."""
    return bool(mx.default_device() == mx.Device(mx.cpu))


def device_name() -> str:
    """Return the name of the default device, such as "Apple M4"; empty where MLX does not know it."""
    return str(mx.device_info(mx.cpu if on_cpu() else mx.gpu).get("device_name", ""))


choose_device()
