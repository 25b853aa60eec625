"""What is exported, and how; and which of that each format can.

>>> ExportOptions(dtype="float16").check("bundle")
Traceback (most recent call last):
sharpzo_mlx.errors.UserError: --dtype float16: a bundle has float32 numbers only; leave the option out
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sharpzo_mlx.errors import UserError, shown

FORMATS = ("onnx", "coreml", "bundle", "web")
HEADS = ("onnx", "coreml")  # the formats whose file can take image features in place of pictures
DTYPES = ("float32", "float16")
PIXELS = ("uint8", "float")


@dataclass(frozen=True)
class ExportOptions:
    """What is exported, and how.

    Attributes:
        head_only: leave the image tower out; the file takes image features.
        dtype: how matrices and kernels are stored, "float32" or "float16"; for "coreml" also what the image tower
            computes in.
        pixels: what a graph takes: "uint8" for bytes [N, H, W, 3], "float" for numbers from 0 to 1 [N, 3, H, W].
        reject: the rate, between 0 and 1, at which images of the labelled kind may wrongly be called none of the
            classes; None for 0.05.
        runtime: the files of onnxruntime-web for a page: a folder, or the archive that `npm pack` makes; None lets npm
            fetch them.
        accept_licence: you have read the model's licence and keep to it, where it does not allow every use.
    """

    head_only: bool = False
    dtype: str = "float32"
    pixels: str = "uint8"
    reject: float | None = None
    runtime: str | Path | None = None
    accept_licence: bool = False

    def check(self, to: str) -> None:
        """Check the options against a format.

        Raises:
            UserError: the format is unknown, or it lacks what is asked.
        """
        for name, value, known in (("to", to, FORMATS), ("dtype", self.dtype, DTYPES), ("input", self.pixels, PIXELS)):
            if value not in known:
                raise UserError(f"--{name} {shown(value)}: must be one of {', '.join(known)}")
        if to == "bundle" and self.dtype != "float32":
            raise UserError(f"--dtype {self.dtype}: a bundle has float32 numbers only; leave the option out")
        if to == "coreml" and self.head_only and self.dtype != "float32":
            raise UserError(
                f"--dtype {self.dtype}: is for the image tower of a Core ML package, and --head-only leaves it out"
            )
        if self.pixels != "uint8" and (to != "onnx" or self.head_only):
            raise UserError(f"--input {self.pixels}: is for --to onnx with its image tower; leave the option out")
        if self.head_only and to not in HEADS:
            reason = "never has an image tower" if to == "bundle" else "needs the image tower"
            raise UserError(
                f"--head-only: is for --to {' and '.join(HEADS)}, and a {to} {reason}; leave the option out"
            )
        if self.runtime is not None and to != "web":
            raise UserError("--runtime: is for --to web; leave the option out")
