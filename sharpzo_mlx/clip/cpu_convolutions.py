"""Convolutions in NumPy for MLX's CPU device, which computes them one number at a time.

Images lie as [channels, 4, 4, Y, X, images]: tiles of 4 x 4 positions, first the row and the column in a tile, then
those of the tile. A product over channels needs no copy then, and the convolution of each channel by itself is one
product: a matrix of 16 rows (32, where a channel has two results) with the kernel's numbers on its diagonals, times
what the kernel reaches from a tile, which is copied in long runs. Where a side is no multiple of 4, what lies outside
is set to zero before it is read.

>>> image = to_tiles(np.ones((1, 4, 4, 1), np.float32))
>>> from_tiles(Depthwise(np.ones((1, 3, 3)), side=4)(image), 4)[0, ..., 0].astype(int).tolist()
[[4, 6, 6, 4], [6, 9, 9, 6], [6, 9, 9, 6], [4, 6, 6, 4]]
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
from numpy.lib.stride_tricks import as_strided

from sharpzo_mlx.runtime.products import host_products

Array = np.ndarray
TILE = 4  # positions of a tile's side: a wider matrix has more zeros, a narrower one needs more copies
CACHED = 1 << 18  # numbers of one piece of work: a megabyte, so that it stays in the cache


class Depthwise:
    """The convolution of each channel by itself, with zeros around the image.

    Args:
        weight: [channels, row, column], sides odd and at most 7; a multiple of the input's channels repeats them.
        bias: [channels], or None.
        side: of the square images, in pixels.
        stride: 1 or 2 pixels.
    """

    def __init__(self, weight: Array, bias: Array | None = None, *, side: int, stride: int = 1) -> None:
        self.weight, self.bias, self.side, self.stride = weight, bias, side, stride
        self.margin, self.tile = weight.shape[1] // 2, TILE * stride  # of the input
        self.reach = (TILE - 1) * stride + weight.shape[1]  # positions of the input that a tile of the result needs
        self.shifts = self._find_shifts()

    @host_products()
    def __call__(self, x: Array, out: Array | None = None) -> Array:
        """[c, 4, 4, Y, X, p] -> [channels, 4, 4, Y', X', p] in float32; sets what is outside of x's images to zero."""
        clear(x, self.side)
        x = x if self.stride == 1 else _widen(x)
        tiles, repeats = x.shape[3:], len(self.weight) // len(x)
        out = np.empty((len(self.weight), TILE, TILE, *tiles), np.float32) if out is None else out
        numbers = self.reach**2 * tiles[0] * tiles[1] * tiles[2]
        step = max(1, CACHED // numbers)
        seen = np.zeros((min(step, len(x)), self.reach, self.reach, *tiles), np.float32)
        bands = np.zeros((len(seen), repeats, TILE, TILE, self.reach, self.reach), np.float32)
        shifts = [(here.into(tiles), there.into(tiles)) for here, there in self.shifts]
        for start in range(0, len(x), step):
            part = x[start : start + step]
            n = len(part)
            for here, there in shifts:
                seen[:n][here] = part[there]
            kernels = self.weight[start * repeats : (start + n) * repeats]
            self._diagonals(bands[:n])[:] = kernels.reshape(n, repeats, 1, 1, *kernels.shape[1:])
            result = out[start * repeats : (start + n) * repeats].reshape(n, repeats * TILE**2, -1)
            np.matmul(bands[:n].reshape(n, repeats * TILE**2, -1), seen[:n].reshape(n, self.reach**2, -1), out=result)
            if self.bias is not None:
                result.reshape(n * repeats, -1)[:] += self.bias[start * repeats : (start + n) * repeats, None]
        return out

    def _find_shifts(self) -> list[tuple[_Range, _Range]]:
        """Return what is copied from each of the nine tiles around: places in what is reached, places in the tile."""
        ends = range(-self.margin, self.reach - self.margin)
        along = []
        for shift in (-1, 0, 1):
            inside = [place for place in ends if place // self.tile == shift]
            if inside:
                first, last = inside[0], inside[-1] + 1
                here = slice(first + self.margin, last + self.margin)
                along.append((shift, here, slice(first - shift * self.tile, last - shift * self.tile)))
        pairs = product(along, along)
        return [(_Range(y[1], x[1], -y[0], -x[0]), _Range(y[2], x[2], y[0], x[0])) for y, x in pairs]

    def _diagonals(self, bands: Array) -> Array:
        """Return the view [n, repeats, row in tile, column in tile, row, column] of `bands` that the kernels fill."""
        n, repeats, y, x, row, column = bands.strides
        strides = (n, repeats, y + self.stride * row, x + self.stride * column, row, column)
        return as_strided(bands, (*bands.shape[:4], *self.weight.shape[1:]), strides)


@dataclass(frozen=True)
class _Range:
    """Rows and columns in a tile, of all tiles but those at one edge."""

    rows: slice
    columns: slice
    down: int  # 1: all but the first row of tiles; -1: all but the last
    right: int

    def into(self, tiles: tuple[int, ...]) -> tuple[slice, ...]:
        """Return the index of an array [n, row, column, Y, X, p]."""
        y, x = (
            slice(max(0, way), count + min(0, way)) for way, count in zip((self.down, self.right), tiles, strict=False)
        )
        return slice(None), self.rows, self.columns, y, x


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
    def __call__(self, x: Array, out: Array | None = None) -> Array:
        """[in, ...] -> [out, ...]."""
        y: Array = np.matmul(self.weight, x.reshape(len(x), -1), out=out)
        if self.bias is not None:
            y += self.bias[:, None]
        return y.reshape(-1, *x.shape[1:])


def to_tiles(x: Array) -> Array:
    """Return images in tiles: [c, H, W, p] -> [c, 4, 4, Y, X, p], with zeros outside of the image."""
    channels, rows, columns, images = x.shape
    y, x_tiles = -(-rows // TILE), -(-columns // TILE)
    if rows % TILE or columns % TILE:
        x = np.pad(x, ((0, 0), (0, y * TILE - rows), (0, x_tiles * TILE - columns), (0, 0)))
    split = x.reshape(channels, y, TILE, x_tiles, TILE, images)
    return np.ascontiguousarray(split.transpose(0, 2, 4, 1, 3, 5))


def from_tiles(x: Array, side: int) -> Array:
    """Return images in tiles as they were: [c, 4, 4, Y, X, p] -> [c, side, side, p]."""
    channels, tile, _, y, x_tiles, images = x.shape
    whole = x.transpose(0, 3, 1, 4, 2, 5).reshape(channels, y * tile, x_tiles * tile, images)
    return whole[:, :side, :side]


def clear(x: Array, side: int) -> None:
    """Set to zero, in place, what lies outside of images [c, 4, 4, Y, X, p] of that side."""
    if rest := side % TILE:
        x[:, rest:, :, -1] = 0
        x[:, :, rest:, :, -1] = 0


def _widen(x: Array) -> Array:
    """Join 2 x 2 tiles: [c, 4, 4, Y, X, p] -> [c, 8, 8, Y / 2, X / 2, p], rounded up, with zeros outside."""
    channels, tile, _, y, x_tiles, images = x.shape
    if y % 2 or x_tiles % 2:
        x = np.pad(x, ((0, 0), (0, 0), (0, 0), (0, y % 2), (0, x_tiles % 2), (0, 0)))
    split = x.reshape(channels, tile, tile, -(-y // 2), 2, -(-x_tiles // 2), 2, images)
    found = split.transpose(0, 4, 1, 6, 2, 3, 5, 7)  # c, tile down, row, tile right, column, Y, X, p
    return found.reshape(channels, 2 * tile, 2 * tile, *found.shape[5:])


def squares(x: Array, side: int, stride: int) -> Array:
    """Return what a kernel of an odd side sees in images [c, H, W, p], with zeros around the image.

    Returns:
        [c * side * side, 4, 4, Y, X, p] in tiles, for H / stride rows and W / stride columns, rounded up; the order
        of the first is channel, row, column.
    """
    margin = side // 2
    channels, rows, columns, images = x.shape
    h, w = -(-rows // stride), -(-columns // stride)
    down, right = (TILE * -(-count // TILE) * stride + side for count in (h, w))
    padded = np.zeros((channels, down, right, images), np.float32)
    padded[:, margin : margin + rows, margin : margin + columns] = x
    c, row, column, image = padded.strides
    y, x_tiles = -(-h // TILE), -(-w // TILE)
    shape = (channels, side, side, TILE, TILE, y, x_tiles, images)
    step, far = stride, TILE * stride
    strides = (c, row, column, step * row, step * column, far * row, far * column, image)
    found = np.ascontiguousarray(as_strided(padded, shape, strides, writeable=False))
    return found.reshape(-1, *shape[3:])


def chunks(total: int, size: int) -> list[slice]:
    """Cut 0 ... total into slices of at most `size`.

    >>> chunks(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return [slice(start, stop) for start, stop in pairwise([*range(0, total, max(1, size)), total])]
