"""The activations that CLIP checkpoints name: quick GELU, GELU, and GELU's tanh form.

The quick and the tanh form are x times a logistic function. On Linux' CPU backend MLX computes that one element at
a time (20 ns, more than the matrix products around it); there a rational form in blocks that fit the processor's
cache takes a quarter of that and stays within 4e-7 of the exact value. Everywhere else it is `mx.sigmoid`.

>>> activation("quick_gelu")(mx.array([0.0])).item()
0.0
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import cast

import mlx.core as mx

Activation = Callable[[mx.array], mx.array]

SQRT_HALF = math.sqrt(0.5)
SQRT_EIGHT_OVER_PI = math.sqrt(8 / math.pi)
SATURATION = 4.971786858527772  # where the convergent below reaches 1: further out it would leave [-1, 1]
BLOCK = 1 << 16  # elements: a quarter of a MB, so that the fraction's steps stay in the cache


def quick_gelu(x: mx.array) -> mx.array:
    """x * sigmoid(1.702 x), the activation of OpenAI's checkpoints."""
    return _logistic(lambda v, sigmoid: v * sigmoid(1.702 * v), x)


def gelu(x: mx.array) -> mx.array:
    """x * Phi(x) with the error function, not an approximation."""
    return 0.5 * x * (1 + mx.erf(x * SQRT_HALF))


def gelu_tanh(x: mx.array) -> mx.array:
    """The tanh form of GELU (Hendrycks & Gimpel, arXiv 1606.08415): (1 + tanh z) / 2 is sigmoid(2 z)."""
    return _logistic(lambda v, sigmoid: v * sigmoid(SQRT_EIGHT_OVER_PI * (v + 0.044715 * v * v * v)), x)


def activation(name: str) -> Activation:
    """The function that a config's `hidden_act` names; CLIPConfig has checked the name."""
    return {"quick_gelu": quick_gelu, "gelu": gelu}.get(name, gelu_tanh)


def rational_sigmoid(y: mx.array) -> mx.array:
    """The logistic function from Lambert's continued fraction of tanh, in products and one quotient.

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
    # the derivative is `_slope`'s: nothing is to flow through p and q
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
    nothing = mx.zeros_like(cotangent)
    return _slope(*primals[1:]) * cotangent, nothing, nothing


def _logistic(function: Callable[[mx.array, Activation], mx.array], x: mx.array) -> mx.array:
    """Apply an elementwise function of x and a sigmoid by whichever way is fast on the device and in x's dtype."""
    if x.dtype != mx.float32 or sys.platform != "linux" or mx.default_device() != mx.Device(mx.cpu):
        return function(x, mx.sigmoid)
    if x.size <= BLOCK:
        return function(x, rational_sigmoid)
    flat = x.reshape(-1)
    blocks = [function(flat[i : i + BLOCK], rational_sigmoid) for i in range(0, x.size, BLOCK)]
    return mx.concatenate(blocks).reshape(x.shape)
