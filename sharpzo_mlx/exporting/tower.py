"""The image tower of a checkpoint as plain arrays: float32, quantised layers dequantised, under our own names.

>>> read_tower(clip).weights["visual_projection.weight"].shape  # doctest: +SKIP
(512, 768)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from mlx import nn
from mlx.utils import tree_flatten

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.clip.tower_config import ImageConfig

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Weights:
    """Some of a network's arrays, by the ends of their names.

    Attributes:
        arrays: all of the network's, by their whole names.
        path: what stands before the names asked for.
    """

    arrays: Mapping[str, Array]
    path: str = ""

    def at(self, path: str) -> Weights:
        """Return the arrays below an attribute, such as "encoder.layers.0"."""
        return Weights(self.arrays, f"{self.path}{path}.")

    def __getitem__(self, name: str) -> Array:
        """Return the array of a name."""
        return self.arrays[self.path + name]

    def get(self, name: str) -> Array | None:
        """Return the array of a name, or None."""
        return self.arrays.get(self.path + name)

    def __contains__(self, path: str) -> bool:
        """Return whether there is an array of this name or below this attribute."""
        whole = self.path + path
        return any(name == whole or name.startswith(f"{whole}.") for name in self.arrays)


@dataclass(frozen=True)
class Tower:
    """An image tower with its projection.

    Attributes:
        config: its sizes.
        weights: its arrays; a kernel is [out, height, width, in / groups].
    """

    config: ImageConfig
    weights: Weights

    @property
    def bytes(self) -> int:
        """What the arrays take."""
        return sum(array.nbytes for array in self.weights.arrays.values())


def read_tower(clip: Clip) -> Tower:
    """Return the image tower of a checkpoint; its weights are checked against their digest.

    Raises:
        UserError: the weights are damaged.
    """
    return Tower(clip.config.vision, Weights(flatten_weights(clip.vision())))


def flatten_weights(model: nn.Module) -> dict[str, Array]:
    """Return a network's arrays by their names, those of quantised layers dequantised."""
    arrays = {name: _as_array(array) for name, array in dict(tree_flatten(model.parameters())).items()}
    for path, module in model.named_modules():
        if isinstance(module, nn.QuantizedLinear):
            for part in ("scales", "biases"):
                arrays.pop(f"{path}.{part}", None)
            arrays[f"{path}.weight"] = _dequantise(module)
    return arrays


def _dequantise(module: nn.QuantizedLinear) -> Array:
    whole = mx.dequantize(
        module.weight, module.scales, module.get("biases"), module.group_size, module.bits, mode=module.mode
    )
    return _as_array(whole)


def _as_array(array: mx.array) -> Array:
    return np.array(array.astype(mx.float32))
