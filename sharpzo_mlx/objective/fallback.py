"""Test whether this device multiplies precisely enough for finite differences of losses.

A difference of two losses that lie close together is mostly noise where products are rounded more coarsely than
float32: on a device that rounds the operands of float32 products, or in products with quantised matrices. Forward-mode
derivatives have no such cancellation and replace the differences there; `docs/results/precision.md` has the figures.
"""

from __future__ import annotations

from mlx import nn

from sharpzo_mlx.clip.text import TextModel
from sharpzo_mlx.runtime import precision


def coarse_products(text_model: TextModel, on_cpu: bool) -> str | None:
    """Return why products are coarser than float32, or None where they are not.

    Args:
        text_model: the text tower, whose matrices may be quantised.
        on_cpu: whether NumPy computes the values: it multiplies with unquantised float32 matrices.
    """
    if not on_cpu and any(_is_coarse(module) for module in text_model.modules()):
        return "this device rounds products with the text tower's quantised matrices"
    if precision.products_are_coarse():
        return "this device rounds the operands of float32 products"
    return None


def _is_coarse(module: nn.Module) -> bool:
    """Return whether the products of a layer with a quantised matrix are coarse."""
    if not isinstance(module, nn.QuantizedLinear):
        return False
    return precision.quantised_products_are_coarse(module.bits, module.group_size)
