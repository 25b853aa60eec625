"""The software and the device that the numbers of a run depend on.

>>> sorted(versions())
['blas', 'device', 'mlx', 'numpy', 'platform', 'python', 'sharpzo-mlx']
"""

from __future__ import annotations

import platform
import sys
from importlib import metadata

import mlx.core as mx

from sharpzo_mlx.runtime import startup


def versions() -> dict[str, str]:
    """Return the versions of this package, MLX, NumPy and Python, and the platform, device and BLAS in use."""
    return {
        "sharpzo-mlx": metadata.version("sharpzo-mlx"),
        "mlx": metadata.version("mlx"),
        "numpy": metadata.version("numpy"),
        "python": platform.python_version(),
        "platform": f"{sys.platform} {platform.machine()}",
        "device": str(mx.default_device()),
        "blas": startup.blas,
    }
