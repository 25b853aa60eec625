"""Measure the precision of this device's products against NumPy's float64.

Zeroth-order estimates are small differences of two losses (arXiv 2506.20990, eqs. 3 and 5), which are lost in noise if
products round their operands to 11 bits (TF32). The environment variable that turns this rounding off is only a
request, so the device itself is measured: a product of rows of length 512 has a relative error of about 2e-7 in full
float32, and of about 3e-4 in TF32.

>>> products_are_coarse()  # on a CPU
False
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from sharpzo_mlx.rng import generator_for
from sharpzo_mlx.runtime.products import host_products

COARSE = 1e-5  # between full float32 (2e-7) and TF32 (3e-4)
_ROWS, _INNER = 64, 512


def product_error(
    dtype: mx.Dtype = mx.float32, multiply: Callable[[mx.array, mx.array], mx.array] = mx.matmul
) -> float:
    """Measure the relative error of one matrix product on the default device.

    Args:
        dtype: type of both operands; both products start from operands rounded to it, so that only the error of
            multiplying and adding is measured.
        multiply: the product to measure, [n, k] x [k, m] -> [n, m].

    Returns:
        The Frobenius norm of the difference from NumPy's float64 product, divided by that product's norm.
    """
    draw = generator_for(0, "precision")
    left = mx.array(draw.standard_normal((_ROWS, _INNER)), dtype=dtype)  # [rows, inner]
    right = mx.array(draw.standard_normal((_INNER, _ROWS)), dtype=dtype)  # [inner, rows]
    measured = _float64(multiply(left, right))
    with host_products():
        exact = _float64(left) @ _float64(right)
    return float(np.linalg.norm(measured - exact) / np.linalg.norm(exact))


def quantised_product_error(bits: int, group_size: int) -> float:
    """Measure the relative error of a product with a quantised matrix, against its dequantised numbers."""
    draw = generator_for(0, "precision")
    left = mx.array(draw.standard_normal((_ROWS, _INNER)), dtype=mx.float32)
    packed, scales, biases = mx.quantize(mx.array(draw.standard_normal((_ROWS, _INNER)), mx.float32), group_size, bits)
    measured = _float64(mx.quantized_matmul(left, packed, scales, biases, group_size=group_size, bits=bits))
    with host_products():
        exact = _float64(left) @ _float64(mx.dequantize(packed, scales, biases, group_size, bits)).T
    return float(np.linalg.norm(measured - exact) / np.linalg.norm(exact))


def products_are_coarse() -> bool:
    """Return whether float32 products on the default device are less precise than float32 rounding."""
    return product_error() > COARSE


@cache
def quantised_products_are_coarse(bits: int, group_size: int) -> bool:
    """Return whether products of float32 with such matrices are less precise than float32 rounding."""
    return quantised_product_error(bits, group_size) > COARSE


def _float64(array: mx.array) -> npt.NDArray[np.float64]:
    return np.array(array.astype(mx.float32), dtype=np.float64)
