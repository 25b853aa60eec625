"""Bring timm's FastViT-MCi to ours: its branches are folded, its tensors renamed, and what is left is channels last.

A block of training (`MobileOneBlock`) adds k x k convolutions, a 1 x 1 convolution and its input, each with a batch
norm (arXiv 2206.04040); a file may also hold the sum already, as `reparam_conv`. RepMixer is
x + g (mixer(x) - norm(x)), one depthwise convolution (arXiv 2303.14189, section 3.1).

>>> fold_fastvit({})
Traceback (most recent call last):
sharpzo_mlx.errors.UserError: stem.0.conv_kxk.0.conv.weight is missing; download the file again
"""

from __future__ import annotations

import re
from collections.abc import Callable

import mlx.core as mx
import numpy as np

from sharpzo_mlx.errors import UserError

from .folding import Kernel, Parts, dirac

TOWER = "vision_model"
_BLOCK = re.compile(r"stages\.(\d{1,3})\.blocks\.(\d{1,4})\.")
_STAGE = re.compile(r"stages\.(\d{1,3})\.")


def fold_fastvit(trunk: dict[str, mx.array]) -> dict[str, mx.array]:
    """Fold and rename a FastViT-MCi.

    Args:
        trunk: timm's name -> tensor; emptied as far as the names are known.

    Returns:
        Our name -> tensor in its own dtype; convolutions are channels last. Unknown tensors keep their names, for the
        strict check that follows.

    Raises:
        UserError: a tensor is missing or has another number of dimensions; the message has no file name.
    """
    return _Fold(trunk).all()


class _Fold:
    """The folding of one tower; each method moves tensors from `parts` to `found`."""

    def __init__(self, trunk: dict[str, mx.array]) -> None:
        self.parts = Parts(trunk)
        self.dtype = next((tensor.dtype for name, tensor in trunk.items() if tensor.ndim == 4), mx.float32)
        self.found: dict[str, mx.array] = {}

    def all(self) -> dict[str, mx.array]:
        for foreign, ours, keep in (("0", "first", self.convolution), ("1", "spatial", self.convolution)):
            keep(f"stem.{ours}", self.branches(f"stem.{foreign}"))
        self.product("stem.pointwise", self.branches("stem.2"))
        names = list(self.parts.weights)
        for stage in sorted({int(match[1]) for name in names if (match := _STAGE.match(name))}):
            self.begin(f"stages.{stage}")
        for stage, block in sorted({(int(m[1]), int(m[2])) for name in names if (m := _BLOCK.match(name))}):
            self.block(f"stages.{stage}.blocks.{block}")
        self.convolution("final.spatial", self.branches("final_conv"))
        self.squeeze("final.squeeze", "final_conv.se")
        for kind in ("weight", "bias"):
            self.found[f"visual_projection.{kind}"] = self.parts.take(f"head.fc.{kind}")
        return self.found | {f"visual.trunk.{name}": tensor for name, tensor in self.parts.weights.items()}

    def begin(self, stage: str) -> None:
        """Fold what stands before the blocks of a stage."""
        down = f"{stage}.downsample.proj"
        if any(name.startswith(f"{down}.") for name in self.parts.weights):
            spatial = self.folded(f"{down}.0", lambda: self.large(f"{down}.0"))
            self.convolution(f"{stage}.downsample.spatial", spatial)
            if f"{down}.0.se.fc1.weight" in self.parts:
                self.squeeze(f"{stage}.downsample.squeeze", f"{down}.0.se")
            self.product(f"{stage}.downsample.pointwise", self.branches(f"{down}.1"))
        position = f"{stage}.pos_emb"
        if f"{position}.pos_enc.weight" in self.parts:
            kernel = self.parts.plain(f"{position}.pos_enc")
            self.convolution(f"{stage}.positions", kernel + _itself(kernel))
        elif f"{position}.reparam_conv.weight" in self.parts:
            self.convolution(f"{stage}.positions", self.parts.plain(f"{position}.reparam_conv"))

    def large(self, down: str) -> Kernel:
        """Fold the two convolutions with which a stage begins."""
        kernel = self.parts.normed(f"{down}.large_conv")
        small = f"{down}.small_conv"
        return kernel + self.parts.normed(small) if f"{small}.conv.weight" in self.parts else kernel

    def block(self, block: str) -> None:
        """Fold one block of either kind."""
        if f"{block}.token_mixer.qkv.weight" in self.parts:
            self.attention(block)
            self.scale(f"{block}.attention_scale", f"{block}.layer_scale_1.gamma")
            self.scale(f"{block}.mlp_scale", f"{block}.layer_scale_2.gamma")
        else:
            mixer = f"{block}.token_mixer"
            self.convolution(f"{block}.mixer", self.folded(mixer, lambda: self.mixer(mixer)))
            self.scale(f"{block}.mlp_scale", f"{block}.layer_scale.gamma")
        self.convolution(f"{block}.mlp.spatial", self.parts.normed(f"{block}.mlp.conv"))
        for layer in ("fc1", "fc2"):
            self.linear(f"{block}.mlp.{layer}", f"{block}.mlp.{layer}")

    def mixer(self, mixer: str) -> Kernel:
        """Fold x + g (mixer(x) - norm(x))."""
        mixed = self.branches(f"{mixer}.mixer")
        norm = self.folded(f"{mixer}.norm", lambda: self.identity(f"{mixer}.norm", mixed.weight.shape))
        gamma = self.parts.numbers(f"{mixer}.layer_scale.gamma").reshape(-1)
        return _itself(mixed) + (mixed + norm.times(np.full(len(gamma), -1.0))).times(gamma)

    def attention(self, block: str) -> None:
        """Rename attention; a batch norm before it becomes part of queries, keys and values."""
        qkv, norm, bias = f"{block}.token_mixer.qkv", f"{block}.norm", f"{block}.attention.qkv.bias"
        if f"{norm}.running_mean" in self.parts:
            scaling, weight = self.parts.scaling(norm), self.parts.numbers(f"{qkv}.weight", 2)
            self.keep(f"{block}.attention.qkv.weight", weight * scaling.factor)
            self.keep(bias, weight @ scaling.summand)
        else:
            self.move(f"{block}.attention.qkv.weight", f"{qkv}.weight")
            for kind in ("weight", "bias"):
                self.move(f"{norm}.{kind}", f"{norm}.{kind}")
        for kind in ("weight", "bias"):
            self.move(f"{block}.attention.proj.{kind}", f"{block}.token_mixer.proj.{kind}")

    def branches(self, block: str) -> Kernel:
        """Fold the branches of a MobileOneBlock."""
        return self.folded(block, lambda: self.sum_of_branches(block))

    def sum_of_branches(self, block: str) -> Kernel:
        """Add up k x k convolutions, the 1 x 1 convolution and the input itself, each behind its batch norm."""
        kernel = self.parts.normed(f"{block}.conv_kxk.0")
        further = 1
        while f"{block}.conv_kxk.{further}.conv.weight" in self.parts:
            kernel = kernel + self.parts.normed(f"{block}.conv_kxk.{further}")
            further += 1
        if f"{block}.conv_scale.conv.weight" in self.parts:
            kernel = kernel + self.parts.normed(f"{block}.conv_scale")
        if f"{block}.identity.weight" in self.parts:
            kernel = kernel + self.identity(block, kernel.weight.shape)
        return kernel

    def identity(self, block: str, shape: tuple[int, ...]) -> Kernel:
        """Fold the batch norm of the input itself into a kernel of the shape of the others."""
        return self.parts.scaling(f"{block}.identity").after(dirac(*shape[:3]))

    def folded(self, block: str, fold: Callable[[], Kernel]) -> Kernel:
        """Return the one convolution that the file holds already, or that `fold` makes."""
        ready = f"{block}.reparam_conv"
        return self.parts.plain(ready) if f"{ready}.weight" in self.parts else fold()

    def squeeze(self, ours: str, foreign: str) -> None:
        for layer in ("fc1", "fc2"):
            self.linear(f"{ours}.{layer}", f"{foreign}.{layer}")

    def linear(self, ours: str, foreign: str) -> None:
        """Rename a convolution of one pixel, which is a linear layer."""
        weight = self.parts.take(f"{foreign}.weight", 4)
        if weight.shape[2:] != (1, 1):
            raise UserError(f"{foreign}.weight has the shape {weight.shape}, not that of a 1 x 1 convolution")
        self.found[f"{TOWER}.{ours}.weight"] = weight.reshape(weight.shape[:2])
        self.move(f"{ours}.bias", f"{foreign}.bias")

    def scale(self, ours: str, foreign: str) -> None:
        self.found[f"{TOWER}.{ours}"] = self.parts.take(foreign).reshape(-1)

    def move(self, ours: str, foreign: str) -> None:
        self.found[f"{TOWER}.{ours}"] = self.parts.take(foreign)

    def convolution(self, ours: str, kernel: Kernel) -> None:
        self.keep(f"{ours}.weight", kernel.weight.transpose(0, 2, 3, 1))
        self.keep(f"{ours}.bias", kernel.bias)

    def product(self, ours: str, kernel: Kernel) -> None:
        self.keep(f"{ours}.weight", kernel.weight[:, :, 0, 0])
        self.keep(f"{ours}.bias", kernel.bias)

    def keep(self, ours: str, numbers: np.ndarray) -> None:
        """Keep folded numbers in the dtype of the file."""
        tensor = mx.array(np.ascontiguousarray(numbers, np.float32)).astype(self.dtype)
        mx.eval(tensor)
        self.found[f"{TOWER}.{ours}"] = tensor


def _itself(kernel: Kernel) -> Kernel:
    """Return the kernel of a convolution's own input."""
    return Kernel(dirac(*kernel.weight.shape[:3]), np.zeros(len(kernel.bias)))
