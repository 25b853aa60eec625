"""Measure whether float32 products on this device are full float32, against float64.

Zeroth-order estimates are small differences of two losses (METHOD: eqs. 3 and 5 of arXiv 2506.20990), so
products whose operands are rounded to 11 bits (TF32) drown them. The environment variable that turns the
rounding off is only a request, and the CPU never rounds, so the device itself is asked: a product of
512-long rows leaves a relative error of about 2e-7 in full float32 and of about 3e-4 in TF32.

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

COARSE = 1e-5  # between full float32 (2e-7) and TF32 (3e-4)
_ROWS, _INNER = 64, 512


def product_error(
    dtype: mx.Dtype = mx.float32, multiply: Callable[[mx.array, mx.array], mx.array] = mx.matmul
) -> float:
    """Measure the relative error of one matrix product on the default device.

    Args:
        dtype: type of both operands; they are rounded to it before either product is taken, so the error
            is that of multiplying and adding alone.
        multiply: the product that is measured, [n, k] x [k, m] -> [n, m].

    Returns:
        Frobenius norm of the difference to NumPy's float64 product, over that product's norm.
    """
    draw = generator_for(0, "precision")
    left = mx.array(draw.standard_normal((_ROWS, _INNER)), dtype=dtype)  # [rows, inner]
    right = mx.array(draw.standard_normal((_INNER, _ROWS)), dtype=dtype)  # [inner, rows]
    measured = _float64(multiply(left, right))
    exact = _float64(left) @ _float64(right)
    return float(np.linalg.norm(measured - exact) / np.linalg.norm(exact))


def quantised_product_error(bits: int, group_size: int) -> float:
    """Measure the same of a product with a quantised matrix, against the numbers that the matrix stands for."""
    draw = generator_for(0, "precision")
    left = mx.array(draw.standard_normal((_ROWS, _INNER)), dtype=mx.float32)
    packed, scales, biases = mx.quantize(mx.array(draw.standard_normal((_ROWS, _INNER)), mx.float32), group_size, bits)
    measured = _float64(mx.quantized_matmul(left, packed, scales, biases, group_size=group_size, bits=bits))
    exact = _float64(left) @ _float64(mx.dequantize(packed, scales, biases, group_size, bits)).T
    return float(np.linalg.norm(measured - exact) / np.linalg.norm(exact))


def products_are_coarse() -> bool:
    """Return whether float32 products on the default device lose more than rounding float32 explains."""
    return product_error() > COARSE


@cache
def quantised_products_are_coarse(bits: int, group_size: int) -> bool:
    """Return whether products of float32 with such matrices lose more than rounding float32 explains."""
    return quantised_product_error(bits, group_size) > COARSE


def _float64(array: mx.array) -> npt.NDArray[np.float64]:
    return np.array(array.astype(mx.float32), dtype=np.float64)
