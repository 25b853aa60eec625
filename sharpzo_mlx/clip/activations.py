"""Compute the activations that CLIP checkpoints name: quick GELU, GELU, and GELU's tanh form.

The quick and the tanh form are x times a logistic function. MLX's CPU backend on Linux computes that function one
element at a time (20 ns each, more than the matrix products around it). There, a rational form replaces it, in blocks
that fit the processor's cache: it takes a quarter of the time and stays within 4e-7 of the exact value. Everywhere
else the function is `mx.sigmoid`. A GPU computes an activation in one compiled pass over its memory in place of three
to nine. `in_place` gives all three activations for NumPy arrays, whose exp and tanh take a thirtieth of MLX's time on
the CPU.

>>> activation("quick_gelu")(mx.array([0.0])).item()
0.0
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import cache
from typing import cast

import mlx.core as mx
import numpy as np

from sharpzo_mlx.runtime.device import on_cpu

Activation = Callable[[mx.array], mx.array]

SQRT_HALF = math.sqrt(0.5)
SQRT_EIGHT_OVER_PI = math.sqrt(8 / math.pi)
SATURATION = 4.971786858527772  # where the convergent below reaches 1; beyond this it would leave [-1, 1]
# P of `_gelu`, highest power first: minimax in what it adds to GELU's error up to |x| = 6.5; beyond, it grows
TANH_OF_ERF = (1.8056164e-9, -1.3344641e-7, 3.9691094e-6, -5.524016e-5, -3.3129994e-5, 0.036334284, 0.79788422)
BLOCK = 1 << 16  # elements: a quarter of a MB, so that the fraction's steps stay in the cache


def quick_gelu(x: mx.array) -> mx.array:
    """Return x * sigmoid(1.702 x), the activation of OpenAI's checkpoints."""
    return _apply(_times_sigmoid, x)


def gelu(x: mx.array) -> mx.array:
    """Return x * Phi(x), computed with the error function and not approximated."""
    return _apply(_times_normal, x)


def gelu_tanh(x: mx.array) -> mx.array:
    """Return the tanh form of GELU (Hendrycks & Gimpel, arXiv 1606.08415); (1 + tanh z) / 2 is sigmoid(2 z)."""
    return _apply(_times_tanh, x)


def activation(name: str) -> Activation:
    """Return the function that a config's `hidden_act` names; CLIPConfig has checked the name."""
    return {"quick_gelu": quick_gelu, "gelu": gelu}.get(name, gelu_tanh)


def rational_sigmoid(y: mx.array) -> mx.array:
    """Return the logistic function, computed with products and one quotient from Lambert's continued fraction of tanh.

    The fraction's seventh convergent p / q is tanh(y / 4). With tanh's double-angle rule, sigmoid(y) =
    (1 + tanh(y / 2)) / 2 becomes (p + q)^2 / 2(p^2 + q^2), and its derivative ((p^2 - q^2) / 2(p^2 + q^2))^2:
    neither cancels where the function is flat, and both share p and q.

    Args:
        y: float32 of any shape; NaN stays NaN, infinities saturate.

    Returns:
        The same shape, within 4e-7 of the exact value everywhere.
    """
    r = mx.clip(0.25 * y, -SATURATION, SATURATION)
    a = r * r
    p = r * (135135 + a * (17325 + a * (378 + a)))
    q = 135135 + a * (62370 + a * (3150 + 28 * a))
    # `_slope` is the whole derivative, so none may flow through p and q
    return cast("mx.array", _quotient(y, mx.stop_gradient(p), mx.stop_gradient(q)))


@mx.custom_function
def _quotient(y: mx.array, p: mx.array, q: mx.array) -> mx.array:
    return mx.square(p + q) / (2 * (p * p + q * q))


def _slope(p: mx.array, q: mx.array) -> mx.array:
    p, q = p * p, q * q
    return mx.square((p - q) / (2 * (p + q)))


@_quotient.jvp
def _forward(primals: tuple[mx.array, ...], tangents: tuple[mx.array, ...]) -> mx.array:
    return _slope(*primals[1:]) * tangents[0]


@_quotient.vjp
def _backward(primals: tuple[mx.array, ...], cotangent: mx.array, _: mx.array) -> tuple[mx.array, ...]:
    zero = mx.zeros_like(cotangent)
    return _slope(*primals[1:]) * cotangent, zero, zero


def in_place(function: Activation) -> Callable[[np.ndarray], None]:
    """Return a function that replaces a NumPy array [rows, width] by its activation, in place."""
    kernel = _quick_gelu if function is quick_gelu else _gelu if function is gelu else _gelu_tanh

    def apply(x: np.ndarray) -> None:
        rows = max(1, BLOCK // x.shape[-1])
        spare = np.empty((2, min(rows, len(x)), x.shape[-1]), x.dtype)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # exp(big) is inf, and x / inf is 0
            for start in range(0, len(x), rows):
                part = x[start : start + rows]
                kernel(part, spare[:, : len(part)])

    return apply


def _quick_gelu(x: np.ndarray, spare: np.ndarray) -> None:
    t = np.multiply(x, np.float32(-1.702), out=spare[0])
    np.exp(t, out=t)
    t += 1
    x /= t


def _gelu_tanh(x: np.ndarray, spare: np.ndarray) -> None:
    t = np.multiply(x, x, out=spare[0])
    t *= np.float32(0.044715)
    t += 1
    t *= x
    t *= np.float32(SQRT_EIGHT_OVER_PI / 2)
    np.tanh(t, out=t)
    t += 1
    t *= np.float32(0.5)
    x *= t


def _gelu(x: np.ndarray, spare: np.ndarray) -> None:
    """Compute x (1 + tanh(x P(x^2))) / 2; x P(x^2) is the inverse tanh of erf(x / sqrt 2) to within 7e-8 of the result.

    It takes two thirds of the time of a quotient and exp: NumPy's tanh is as fast as three products.
    """
    square, t = np.square(x, out=spare[0]), spare[1]
    np.multiply(square, np.float32(TANH_OF_ERF[0]), out=t)
    for coefficient in TANH_OF_ERF[1:-1]:
        t += np.float32(coefficient)
        t *= square
    t += np.float32(TANH_OF_ERF[-1])
    t *= x
    np.tanh(t, out=t)
    t *= np.float32(0.5)
    t += np.float32(0.5)
    x *= t


def _times_sigmoid(x: mx.array, sigmoid: Activation = mx.sigmoid) -> mx.array:
    return x * sigmoid(1.702 * x)


def _times_tanh(x: mx.array, sigmoid: Activation = mx.sigmoid) -> mx.array:
    return x * sigmoid(SQRT_EIGHT_OVER_PI * (x + 0.044715 * x * x * x))


def _times_normal(x: mx.array, sigmoid: Activation = mx.sigmoid) -> mx.array:  # needs no logistic function
    return 0.5 * x * (1 + mx.erf(x * SQRT_HALF))


def _apply(function: Callable[..., mx.array], x: mx.array) -> mx.array:
    """Apply an elementwise function of x and a sigmoid, in the way that is fast on the device and in x's dtype."""
    if not on_cpu():
        return fuse(function)(x)
    if x.dtype != mx.float32 or sys.platform != "linux" or function is _times_normal:
        return function(x)
    if x.size <= BLOCK:
        return function(x, rational_sigmoid)
    flat = x.reshape(-1)
    blocks = [function(flat[i : i + BLOCK], rational_sigmoid) for i in range(0, x.size, BLOCK)]
    return mx.concatenate(blocks).reshape(x.shape)


@cache
def fuse(function: Callable[..., mx.array]) -> Activation:
    """Return an elementwise function of x as one kernel of a GPU, for arrays of any shape."""

    def of_x(x: mx.array) -> mx.array:
        return function(x)

    return cast("Activation", mx.compile(of_x, shapeless=True))
