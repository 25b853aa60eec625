"""Fold convolutions, batch norms and sums of them into one convolution, in float64.

A batch norm of running statistics multiplies each channel and adds to it, so it can be part of the convolution before
it. Convolutions of the same input that are added are one convolution whose kernels are the sum; a smaller kernel stands
in the middle of the larger one, and the input itself is a kernel with a single one in its middle (Ding et al., arXiv
2101.03697). Kernels have torch's layout here: [out, in / groups, side, side].

>>> twice = Kernel(np.ones((1, 1, 1, 1)), np.zeros(1)) + Kernel(dirac(1, 1, 3), np.zeros(1))
>>> twice.weight[0, 0, 1].tolist()
[0.0, 2.0, 0.0]
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from sharpzo_mlx.errors import UserError, one_line

BATCH_NORM_EPS = 1e-5  # of all of these networks
Array = np.ndarray


@dataclass(frozen=True)
class Kernel:
    """A convolution's weights [out, in / groups, side, side] and its summand [out], in float64."""

    weight: Array
    bias: Array

    def __add__(self, other: Kernel) -> Kernel:
        """Return the convolution that gives the sum of both; the smaller kernel stands in the middle of the larger."""
        side = max(self.weight.shape[-1], other.weight.shape[-1])
        return Kernel(_widen(self.weight, side) + _widen(other.weight, side), self.bias + other.bias)

    def times(self, factor: Array) -> Kernel:
        """Return the convolution whose outputs [out] are multiplied by a factor each."""
        return Kernel(self.weight * factor[:, None, None, None], self.bias * factor)


@dataclass(frozen=True)
class Scaling:
    """A factor and a summand of each channel: what a batch norm does."""

    factor: Array
    summand: Array

    def after(self, weight: Array, bias: Array | None = None) -> Kernel:
        """Return a convolution with this scaling behind it."""
        kernel = Kernel(weight, np.zeros(len(weight)) if bias is None else bias).times(self.factor)
        return Kernel(kernel.weight, kernel.bias + self.summand)


def dirac(channels: int, per_group: int, side: int) -> Array:
    """Return the kernel [channels, per_group, side, side] that gives its input back."""
    kernel = np.zeros((channels, per_group, side, side))
    every = np.arange(channels)
    kernel[every, every % per_group, side // 2, side // 2] = 1
    return kernel


def _widen(kernel: Array, side: int) -> Array:
    """Put a kernel of an odd side into the middle of zeros."""
    margin = (side - kernel.shape[-1]) // 2
    return np.pad(kernel, ((0, 0), (0, 0), (margin, margin), (margin, margin)))


class Parts:
    """The tensors of a tower that are still to be folded.

    Args:
        weights: the foreign name -> tensor. What nobody takes stays in `weights`.
    """

    def __init__(self, weights: dict[str, mx.array]) -> None:
        self.weights = weights

    def __contains__(self, name: str) -> bool:
        return name in self.weights

    def take(self, name: str, dimensions: int | None = None) -> mx.array:
        """Remove a tensor and return it.

        Raises:
            UserError: it is missing, or has another number of dimensions.
        """
        if name not in self.weights:
            raise UserError(f"{one_line(name)} is missing; download the file again")
        found = self.weights.pop(name)
        if dimensions not in (None, found.ndim):
            raise UserError(f"{one_line(name)} has the shape {found.shape}, not {dimensions} dimensions")
        return found

    def numbers(self, name: str, dimensions: int | None = None) -> Array:
        """Remove a tensor and return it in float64."""
        return np.array(self.take(name, dimensions).astype(mx.float32)).astype(np.float64)

    def scaling(self, norm: str) -> Scaling:
        """Remove a batch norm and return what it does."""
        gain, shift, mean, variance = (
            self.numbers(f"{norm}.{part}", 1) for part in ("weight", "bias", "running_mean", "running_var")
        )
        factor = gain / np.sqrt(np.maximum(variance, 0) + BATCH_NORM_EPS)
        return Scaling(factor, shift - mean * factor)

    def normed(self, branch: str, conv: str = "conv", norm: str = "bn") -> Kernel:
        """Remove a convolution and the batch norm behind it and return both as one."""
        weight = self.numbers(f"{branch}.{conv}.weight", 4)
        bias = f"{branch}.{conv}.bias"
        return self.scaling(f"{branch}.{norm}").after(weight, self.numbers(bias) if bias in self else None)

    def plain(self, convolution: str) -> Kernel:
        """Remove a convolution without a batch norm and return it."""
        return Kernel(self.numbers(f"{convolution}.weight", 4), self.numbers(f"{convolution}.bias", 1))
