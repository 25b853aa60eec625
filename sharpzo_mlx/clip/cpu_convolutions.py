"""Convolutions in NumPy for MLX's CPU device, which computes them one number at a time.

Images lie as [channels, columns, images, rows]: a product over channels needs no copy then, and neither do the
convolutions of each channel by itself. Such a convolution is one product for each channel and each few columns: the
columns that the kernel reaches, times a band matrix with the kernel's numbers on its diagonals, give the kernel's rows
side by side. Their sum, each shifted by its row, is the result.

>>> Depthwise(np.ones((1, 3, 3)))(np.ones((1, 4, 1, 4), np.float32))[0, :, 0].astype(int).tolist()
[[4, 6, 6, 4], [6, 9, 9, 6], [6, 9, 9, 6], [4, 6, 6, 4]]
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.lib.stride_tricks import as_strided

from sharpzo_mlx.runtime.products import host_products

Array = np.ndarray
TILE = 16  # columns of one product: a wider band matrix has more zeros
CACHED = 1 << 18  # numbers of one piece of work: a megabyte, so that it stays in the cache


class Depthwise:
    """The convolution of each channel by itself, with zeros around the image.

    Args:
        weight: [channels, side, side] by column and row, side odd; a multiple of the input's channels repeats them.
        bias: [channels], or None.
        stride: 1 or 2 pixels.
    """

    def __init__(self, weight: Array, bias: Array | None = None, stride: int = 1) -> None:
        self.weight, self.bias, self.stride = weight, bias, stride

    @host_products()
    def __call__(self, x: Array) -> Array:
        """[c, W, p, H] -> [channels, W / stride, p, H / stride], rounded up, float32."""
        channels, side = self.weight.shape[:2]
        _, columns, images, rows = x.shape
        stride, repeats = self.stride, channels // len(x)
        out = np.empty((channels, -(-columns // stride), images, -(-rows // stride)), np.float32)
        plan = _Plan.of(out.shape[1], images, rows, side=side, stride=stride)
        step = max(1, CACHED // plan.numbers // repeats) * repeats
        padded = np.zeros((step, plan.width, plan.length), np.float32)
        bands = np.zeros((step, side, plan.tile, plan.reach), np.float32)
        products = np.empty((step, plan.tiles, side * plan.tile, plan.length), np.float32)
        for start in range(0, channels, step):
            part = out[start : start + step]
            n = len(part)
            source = x[start // repeats : -(-(start + n) // repeats)]
            plan.inside(padded[:n], columns)[:] = np.repeat(source, repeats, axis=0) if repeats > 1 else source
            plan.diagonals(bands[:n])[:] = self.weight[start : start + n, None]
            flat = bands[:n].reshape(n, 1, side * plan.tile, plan.reach)
            np.matmul(flat, plan.overlapping(padded[:n]), out=products[:n])
            plan.gather(products[:n], part)
        if self.bias is not None:
            out += self.bias[:, None, None, None]
        return out


@dataclass(frozen=True)
class _Plan:
    """The sizes of a convolution's products, and the views that they read and write.

    The rows of all images stand behind one another with zeros between them: `length` in all.
    """

    columns: int  # of the result
    images: int
    rows: int  # of the input
    side: int
    stride: int
    tile: int
    tiles: int

    @classmethod
    def of(cls, columns: int, images: int, rows: int, *, side: int, stride: int) -> _Plan:
        tiles = -(-columns // TILE)
        return cls(columns, images, rows, side, stride, -(-columns // tiles), tiles)

    @property
    def margin(self) -> int:
        return self.side // 2

    @property
    def reach(self) -> int:
        """The columns of the input that a tile needs."""
        return (self.tile - 1) * self.stride + self.side

    @property
    def width(self) -> int:
        return (self.tiles - 1) * self.tile * self.stride + self.reach + self.stride

    @property
    def length(self) -> int:
        return self.images * (self.rows + self.margin) + self.margin

    @property
    def numbers(self) -> int:
        """How many numbers the products of one channel are."""
        return self.tiles * self.side * self.tile * self.length

    def inside(self, padded: Array, columns: int) -> Array:
        """Return the view of padded [n, width, length] that the input [n, W, p, H] fills."""
        image = padded[:, self.margin : self.margin + columns, self.margin :]
        channel, column, row = image.strides
        shape = (len(padded), columns, self.images, self.rows)
        return as_strided(image, shape, (channel, column, (self.rows + self.margin) * row, row))

    def overlapping(self, padded: Array) -> Array:
        """Return the view [n, tiles, reach, length] of padded [n, width, length]; its tiles overlap."""
        channel, column, row = padded.strides
        shape = (len(padded), self.tiles, self.reach, self.length)
        return as_strided(padded, shape, (channel, self.tile * self.stride * column, column, row), writeable=False)

    def diagonals(self, bands: Array) -> Array:
        """Return the view [n, tile, column, row] of bands [n, side, tile, reach] that the kernels fill."""
        channel, row, column, reached = bands.strides
        shape = (len(bands), self.tile, self.side, self.side)
        return as_strided(bands, shape, (channel, column + self.stride * reached, reached, row))

    def gather(self, products: Array, out: Array) -> None:
        """Add up the kernel's rows of products [n, tiles, side * tile, length], each shifted by its row, into `out`."""
        n, kept = len(products), self.length - self.side + 1
        rows = [products[:, :, i * self.tile : (i + 1) * self.tile, i : i + kept] for i in range(self.side)]
        total = rows[0]
        for row in rows[1:]:
            total += row
        channel, tile, column, position = total.strides
        shape = (n, self.tiles, self.tile, self.images, out.shape[3])
        strides = (channel, tile, column, (self.rows + self.margin) * position, self.stride * position)
        found = as_strided(total, shape, strides, writeable=False)
        whole = self.tiles - 1
        if whole:
            split = out[:, : whole * self.tile].reshape(n, whole, self.tile, *out.shape[2:])
            split[:] = found[:, :whole]
        out[:, whole * self.tile :] = found[:, whole, : self.columns - whole * self.tile]


@dataclass(frozen=True)
class Pointwise:
    """A linear map of each pixel's channels: a product.

    Attributes:
        weight: [out, in].
        bias: [out], or None.
    """

    weight: Array
    bias: Array | None

    @host_products()
    def __call__(self, x: Array) -> Array:
        """[in, ...] -> [out, ...]."""
        y: Array = self.weight @ x.reshape(len(x), -1)
        if self.bias is not None:
            y += self.bias[:, None]
        return y.reshape(-1, *x.shape[1:])


def squares(x: Array, side: int, stride: int) -> Array:
    """Return what a kernel of an odd side sees, with zeros around the image.

    Args:
        x: [c, W, p, H].
        side: of the kernel.
        stride: in pixels.

    Returns:
        [c * side * side, W / stride, p, H / stride]; the order of the first is channel, column, row.
    """
    margin = side // 2
    channels, columns, images, rows = x.shape
    padded = np.pad(x, ((0, 0), (margin, margin), (0, 0), (margin, margin)))
    w, h = -(-columns // stride), -(-rows // stride)
    found = np.empty((channels, side, side, w, images, h), np.float32)
    for column in range(side):
        for row in range(side):
            found[:, column, row] = padded[
                :, column : column + (w - 1) * stride + 1 : stride, :, row : row + (h - 1) * stride + 1 : stride
            ]
    return found.reshape(-1, w, images, h)


def chunks(total: int, size: int) -> list[slice]:
    """Cut 0 ... total into slices of at most `size`.

    >>> chunks(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return [slice(start, stop) for start, stop in pairwise([*range(0, total, max(1, size)), total])]
