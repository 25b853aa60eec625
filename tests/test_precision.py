"""The probe tells full float32 products from products of rounded operands."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from sharpzo_mlx.runtime import precision


def _keep_bits(array: mx.array, bits: int) -> mx.array:
    """Round float32 operands to `bits` bits of mantissa, as TF32 units do (11 with the hidden one)."""
    drop = 24 - bits
    whole = np.array(array).view(np.uint32)
    return mx.array(((whole + np.uint32(1 << (drop - 1))) >> drop << drop).view(np.float32))


def test_full_float32_passes() -> None:
    assert 0 < precision.product_error() < 1e-6
    assert not precision.products_are_coarse()


def test_rounded_operands_are_seen() -> None:
    """Products as a TF32 unit takes them: the probe reports the error that 11 bits leave."""
    error = precision.product_error(multiply=lambda a, b: _keep_bits(a, 11) @ _keep_bits(b, 11))
    assert 1e-4 < error < 1e-3
    assert error > precision.COARSE


@pytest.mark.parametrize(("dtype", "unit"), [(mx.float16, 2**-11), (mx.bfloat16, 2**-8)])
def test_half_products_are_coarse(dtype: mx.Dtype, unit: float) -> None:
    """The result alone is rounded to the type: between a tenth of its unit and a few units."""
    assert unit / 10 < precision.product_error(dtype) < 4 * unit


@pytest.mark.parametrize(("bits", "group_size"), [(8, 64), (4, 64), (4, 32), (8, 128)])
def test_quantised_products_of_this_device_are_full_float32(bits: int, group_size: int) -> None:
    assert 0 < precision.quantised_product_error(bits, group_size) < precision.COARSE / 10
    assert not precision.quantised_products_are_coarse(bits, group_size)


def test_rounded_quantised_products_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = mx.quantized_matmul

    def rounded(x: mx.array, *arguments: Any, **settings: Any) -> mx.array:
        return plain(x.astype(mx.float16).astype(mx.float32), *arguments, **settings)

    monkeypatch.setattr(mx, "quantized_matmul", rounded)
    assert precision.quantised_product_error(8, 64) > precision.COARSE
