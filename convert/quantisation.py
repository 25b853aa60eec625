"""Quantise the matrices of a model's transformer layers to 4 or 8 bits.

Matrices are quantised group by group along their input (MLX's affine mode: one factor and one summand for each group).
Embedding tables, norms, projections and logit scale stay: a table's rows are read and not multiplied, and the rest is
small. Each matrix is quantised by itself, so the model is never in memory twice. The settings go into `config.json`,
and `load_model` applies them where a layer has scales.

>>> Quantisation(bits=8).settings()
{'bits': 8, 'group_size': 64}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx

from sharpzo_mlx.errors import UserError

BITS, GROUP_SIZES = (8, 4), (64, 32, 128)


@dataclass(frozen=True)
class Quantisation:
    """The settings of a quantisation.

    Attributes:
        bits: 8 or 4.
        group_size: how many neighbours share a factor: 32, 64 or 128.
        vision: quantise the image tower too. It runs once for each image, so that gains little and costs accuracy.
    """

    bits: int
    group_size: int = 64
    vision: bool = False

    def __post_init__(self) -> None:
        """Refuse settings for which MLX has no product."""
        if self.bits not in BITS:
            raise UserError(f"quantize {self.bits}: choose 8 or 4 bits")
        if self.group_size not in GROUP_SIZES:
            raise UserError(f"group size {self.group_size}: choose {', '.join(map(str, GROUP_SIZES))}")

    @property
    def towers(self) -> tuple[str, ...]:
        """The towers that are quantised."""
        return ("text", "vision") if self.vision else ("text",)

    def settings(self) -> dict[str, int]:
        """Return the entry "quantization" of `config.json`."""
        return {"bits": self.bits, "group_size": self.group_size}

    def applies(self, name: str, weight: mx.array) -> bool:
        """Tell whether a weight is a matrix of a layer of these towers whose width is a multiple of the group size."""
        starts = tuple(f"{tower}_model.encoder.layers." for tower in self.towers)
        return (
            name.startswith(starts)
            and name.endswith(".weight")
            and weight.ndim == 2
            and weight.shape[1] % self.group_size == 0
        )

    def apply(self, weights: Mapping[str, mx.array]) -> dict[str, mx.array]:
        """Return a model's weights with their matrices quantised.

        Args:
            weights: attribute path -> array in MLX's layout; the result shares the arrays that stay.

        Raises:
            UserError: no matrix has a width that is a multiple of the group size.
        """
        found: dict[str, mx.array] = {}
        for name, weight in weights.items():
            if not self.applies(name, weight):
                found[name] = weight
                continue
            path = name.removesuffix(".weight")
            packed, scales, biases = mx.quantize(weight, group_size=self.group_size, bits=self.bits)
            mx.eval(packed, scales, biases)
            found |= {name: packed, f"{path}.scales": scales, f"{path}.biases": biases}
        if len(found) == len(weights):
            raise UserError(f"no matrix divides into groups of {self.group_size}; choose another group size")
        return dict(sorted(found.items()))
