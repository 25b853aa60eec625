"""BlackVIP's coordinator: a few thousand parameters that paint a prompt for each image from its own feature.

The image's feature and a tuned "trigger" vector make a small cube, which a light decoder of transposed convolutions
enlarges to the image's size (Oh et al., arXiv 2303.14773, section 4.1). The decoder is the published one: up to five
doublings, each a grouped 2x2 transposed convolution and a mixing of channels, to 64, 32, 32, 16 and 3 channels. All
parameters lie in one vector. Ours: the norm between is over each image and not over the batch, so that a prompt
does not depend on its neighbours; the cube's size follows the image's and the feature's.

>>> coordinator = Coordinator(image_size=64, feature_width=256)
>>> coordinator.edge, coordinator.prompts(mx.zeros(coordinator.dimension), mx.zeros((2, 256))).shape
(2, (2, 64, 64, 3))
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import mlx.core as mx

from sharpzo_mlx.clip.activations import gelu
from sharpzo_mlx.errors import UserError

WIDTHS = (64, 32, 32, 16)  # channels behind each doubling but the last, which has the image's three
GROUPS = 64  # at most, of a convolution
CHANNELS = 32  # the cube's channels are a multiple
EPS = 1e-5


@dataclass(frozen=True)
class Coordinator:
    """The decoder and the trigger for one size of images and features."""

    image_size: int
    feature_width: int  # D

    @cached_property
    def doublings(self) -> int:
        """Five, or as many as leave whole edges of at least 2."""
        fitting = [k for k in range(1, len(WIDTHS) + 2) if self.image_size % 2**k == 0 and self.image_size >> k >= 2]
        if not fitting:
            raise UserError(f"images of {self.image_size} pixels: BlackVIP's decoder needs an even number above 2")
        return max(fitting)

    @property
    def edge(self) -> int:
        """Height and width of the cube."""
        return self.image_size >> self.doublings

    @property
    def channels(self) -> int:
        """Of the cube: the trigger fills about as much of it as the feature, as published (768 and 800)."""
        return CHANNELS * -(-2 * self.feature_width // (CHANNELS * self.edge**2))

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The parameters by name, in the vector's order."""
        shapes: dict[str, tuple[int, ...]] = {"trigger": (self.channels * self.edge**2 - self.feature_width,)}
        width = self.channels
        for number, out in enumerate(WIDTHS[: self.doublings - 1]):
            inner = WIDTHS[0] if number == 0 else width
            groups = math.gcd(width, GROUPS)
            shapes[f"{number}.up"] = (groups, width // groups, 4 * inner // groups)
            shapes[f"{number}.bias"] = (inner,)
            shapes[f"{number}.mix"] = (inner, out)
            shapes[f"{number}.gain"] = shapes[f"{number}.offset"] = (out,)
            width = out
        shapes["last"] = (width, 4 * 3)
        return shapes

    @cached_property
    def dimension(self) -> int:
        """Length of the parameter vector."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def start(self, key: mx.array) -> mx.array:
        """Random parameters [d], spread as published: uniform, within 1 / sqrt(fan-in) of 0; trigger in [0, 0.1]."""
        parts = []
        for (name, shape), part_key in zip(self.shapes.items(), mx.random.split(key, len(self.shapes)), strict=True):
            kind = name.rsplit(".", 1)[-1]
            if kind in ("gain", "offset"):
                parts.append(mx.full(shape, float(kind == "gain")))
                continue
            bound = 0.1 if kind == "trigger" else self._bound(name)
            low = 0.0 if kind == "trigger" else -bound
            parts.append(mx.random.uniform(low, bound, shape, key=part_key).reshape(-1))
        return mx.concatenate(parts)

    def _bound(self, name: str) -> float:
        number, _, kind = name.rpartition(".")
        shape = self.shapes[f"{number}.up"] if kind == "bias" else self.shapes[name]
        return 1 / math.sqrt(shape[-1])

    def silenced(self, parameters: mx.array) -> mx.array:
        """The same parameters with a last layer of zeros: they paint nothing."""
        kept = self.dimension - math.prod(self.shapes["last"])
        return mx.concatenate([parameters[:kept], mx.zeros(self.dimension - kept)])

    def prompts(self, parameters: mx.array, features: mx.array) -> mx.array:
        """What is to be added to each image's normalised pixels.

        Args:
            parameters: [d].
            features: [B, D], of unit norm; here their entries are brought to a spread of about 1.

        Returns:
            [B, image_size, image_size, 3].
        """
        values = dict(self._unpacked(parameters))
        trigger = mx.broadcast_to(values["trigger"], (len(features), values["trigger"].shape[0]))
        cube = mx.concatenate([features * math.sqrt(self.feature_width), trigger], axis=1)
        x = cube.reshape(len(features), self.channels, self.edge, self.edge).transpose(0, 2, 3, 1)
        for number in range(self.doublings - 1):
            x = _grown(x, values[f"{number}.up"]) + values[f"{number}.bias"]
            x = _normed(x @ values[f"{number}.mix"]) * values[f"{number}.gain"] + values[f"{number}.offset"]
            x = gelu(x)
        return _doubled((x @ values["last"])[..., None, :])

    def _unpacked(self, parameters: mx.array) -> Iterator[tuple[str, mx.array]]:
        start = 0
        for name, shape in self.shapes.items():
            size = math.prod(shape)
            yield name, parameters[start : start + size].reshape(shape)
            start += size


def _grown(x: mx.array, weight: mx.array) -> mx.array:
    """A grouped transposed convolution of size and stride 2: [B, h, w, C] by [groups, C / groups, 4 * out]."""
    groups, inputs, _ = weight.shape
    x = x.reshape(*x.shape[:3], groups, inputs, 1)
    return _doubled(mx.sum(x * weight, axis=-2))


def _doubled(x: mx.array) -> mx.array:
    """[B, h, w, groups, 4 * out], the four places of each output pixel -> [B, 2 h, 2 w, groups * out]."""
    batch, height, width, groups, outs = x.shape
    x = x.reshape(batch, height, width, groups, 2, 2, outs // 4).transpose(0, 1, 4, 2, 5, 3, 6)
    return x.reshape(batch, 2 * height, 2 * width, groups * outs // 4)


def _normed(x: mx.array) -> mx.array:
    """Mean 0 and variance 1 over each image, [B, h, w, C]."""
    mean = mx.mean(x, axis=(1, 2, 3), keepdims=True)
    return (x - mean) * mx.rsqrt(mx.var(x, axis=(1, 2, 3), keepdims=True) + EPS)
