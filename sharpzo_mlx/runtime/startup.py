"""Prepare the process before MLX is first imported: full float32 products, and a fast BLAS on Linux.

MLX rounds the operands of float32 products to about 11 bits on M5 GPUs and on CUDA unless MLX_ENABLE_TF32=0 is set
before its first use; finite differences of losses need full float32. On Linux, MLX's CPU wheel multiplies with the
reference BLAS, 40 to 60 times slower than OpenBLAS, but uses OpenBLAS if that library is loaded already. The package's
`__init__` calls `prepare()`; SHARPZO_MLX_OPENBLAS=0 turns the second part off.

>>> prepare()  # a second call does nothing
>>> blas in ("Accelerate", "OpenBLAS", "reference")
True
"""

from __future__ import annotations

import ctypes
import os
import sys

from sharpzo_mlx.errors import notify

TF32_SWITCH = "MLX_ENABLE_TF32"
BLAS_SWITCH = "SHARPZO_MLX_OPENBLAS"
BLAS_LIBRARY = "libopenblas.so.0"
BLAS_REMEDY = (
    "OpenBLAS was not found: everything works, but matrix products are about 50 times slower; "
    "install it (Debian, Ubuntu: apt-get install libopenblas0-pthread), "
    f"or set {BLAS_SWITCH}=0 to silence this"
)
INTEL_MAC = (
    "this Python runs on an Intel processor, and MLX needs a Mac with Apple silicon (M1 or newer) "
    "and a Python built for arm64"
)

blas: str = "Accelerate" if sys.platform == "darwin" else "reference"
_tried = False


def prepare() -> None:
    """Set MLX_ENABLE_TF32=0 unless the user set it, and load OpenBLAS on Linux; a second call does nothing."""
    global _tried
    if _tried:
        return
    _tried = True
    os.environ.setdefault(TF32_SWITCH, "0")
    if sys.platform == "linux" and os.environ.get(BLAS_SWITCH, "1") != "0":
        _load_openblas()


def unsupported() -> str | None:
    """Return one line that says why this machine cannot run MLX, or None if it can."""
    if sys.platform == "darwin" and os.uname().machine != "arm64":
        return INTEL_MAC
    if sys.platform not in ("darwin", "linux"):
        return f"MLX runs on macOS and Linux, and this is {sys.platform}"
    return None


def _load_openblas() -> None:
    global blas
    if "mlx.core" in sys.modules:  # its symbols are bound already: loading OpenBLAS now would have no effect
        notify("mlx was imported before sharpzo_mlx, so OpenBLAS cannot be used: import sharpzo_mlx first")
        return
    try:
        ctypes.CDLL(BLAS_LIBRARY, ctypes.RTLD_GLOBAL)
    except OSError:
        notify(BLAS_REMEDY)
    else:
        blas = "OpenBLAS"
