"""BlackVIP's coordinator: a network of a few thousand parameters that computes a prompt for each image.

An image's feature and a tuned "trigger" vector form a small cube, which a decoder of transposed convolutions enlarges
to the image's size (Oh et al., arXiv 2303.14773, section 4.1). The decoder is the published one: up to five doublings,
each a grouped 2x2 transposed convolution and a mixing of channels, to 64, 32, 32, 16 and 3 channels. All parameters
are one vector. Ours: normalisation is over each image, not over the batch, so that a prompt does not depend on the
other images; the size of the cube follows those of the image and the feature.

>>> coordinator = Coordinator(image_size=64, feature_width=256)
>>> coordinator.edge, coordinator.make_prompts(mx.zeros(coordinator.dimension), mx.zeros((2, 256))).shape
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

WIDTHS = (64, 32, 32, 16)  # channels after each doubling; after the last one there are the image's three
GROUPS = 64  # groups of a convolution at most
CHANNELS = 32  # the cube's channels are a multiple of it
EPS = 1e-5


@dataclass(frozen=True)
class Coordinator:
    """The decoder and the trigger for one size of images and features.

    Attributes:
        image_size: height and width of the images in pixels.
        feature_width: D, the length of a feature.
    """

    image_size: int
    feature_width: int

    @cached_property
    def doublings(self) -> int:
        """How often the decoder doubles the size: five times, or as often as leaves a whole edge of at least 2."""
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
        """Channels of the cube; the trigger then is about as long as the feature, as published (800 and 768)."""
        return CHANNELS * -(-2 * self.feature_width // (CHANNELS * self.edge**2))

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the parameters by name, in the order of the vector."""
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
        """d, the length of the parameter vector."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def draw_parameters(self, key: mx.array) -> mx.array:
        """Draw parameters [d] as published: uniform within 1 / sqrt(fan-in) of 0, the trigger in [0, 0.1]."""
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
        """Return the largest value that a parameter of this name starts with."""
        number, _, kind = name.rpartition(".")
        shape = self.shapes[f"{number}.up"] if kind == "bias" else self.shapes[name]
        return 1 / math.sqrt(shape[-1])

    def silence(self, parameters: mx.array) -> mx.array:
        """Return the parameters [d] with a last layer of zeros, whose prompts are zero."""
        kept = self.dimension - math.prod(self.shapes["last"])
        return mx.concatenate([parameters[:kept], mx.zeros(self.dimension - kept)])

    def make_prompts(self, parameters: mx.array, features: mx.array) -> mx.array:
        """Compute what is added to the normalised pixels of each image.

        Args:
            parameters: [d].
            features: [B, D], of unit norm; they are multiplied by sqrt(D), so that entries are about 1.

        Returns:
            [B, image_size, image_size, 3].
        """
        values = dict(self._unpack(parameters))
        trigger = mx.broadcast_to(values["trigger"], (len(features), values["trigger"].shape[0]))
        cube = mx.concatenate([features * math.sqrt(self.feature_width), trigger], axis=1)
        x = cube.reshape(len(features), self.channels, self.edge, self.edge).transpose(0, 2, 3, 1)
        for number in range(self.doublings - 1):
            x = _convolve(x, values[f"{number}.up"]) + values[f"{number}.bias"]
            x = _normalise(x @ values[f"{number}.mix"]) * values[f"{number}.gain"] + values[f"{number}.offset"]
            x = gelu(x)
        return _spread((x @ values["last"])[..., None, :])

    def _unpack(self, parameters: mx.array) -> Iterator[tuple[str, mx.array]]:
        """Yield the name and the array of each parameter."""
        start = 0
        for name, shape in self.shapes.items():
            size = math.prod(shape)
            yield name, parameters[start : start + size].reshape(shape)
            start += size


def _convolve(x: mx.array, weight: mx.array) -> mx.array:
    """Apply a grouped transposed convolution of size and stride 2.

    Args:
        x: [B, h, w, C].
        weight: [groups, C / groups, 4 * out].

    Returns:
        [B, 2 h, 2 w, groups * out].
    """
    groups, inputs, _ = weight.shape
    x = x.reshape(*x.shape[:3], groups, inputs, 1)
    return _spread(mx.sum(x * weight, axis=-2))


def _spread(x: mx.array) -> mx.array:
    """Spread [B, h, w, groups, 4 * out], four output pixels per input pixel, to [B, 2 h, 2 w, groups * out]."""
    batch, height, width, groups, outs = x.shape
    x = x.reshape(batch, height, width, groups, 2, 2, outs // 4).transpose(0, 1, 4, 2, 5, 3, 6)
    return x.reshape(batch, 2 * height, 2 * width, groups * outs // 4)


def _normalise(x: mx.array) -> mx.array:
    """Return each image of x [B, h, w, C] with mean 0 and variance 1."""
    mean = mx.mean(x, axis=(1, 2, 3), keepdims=True)
    return (x - mean) * mx.rsqrt(mx.var(x, axis=(1, 2, 3), keepdims=True) + EPS)
