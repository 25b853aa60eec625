"""What leader and workers must have in common, so that a piece has the same result everywhere.

>>> disagreement({"mlx": "0.32.4"}, {"mlx": "0.32.1"})
'mlx is 0.32.1 here and 0.32.4 at the leader; install the same: pip install mlx==0.32.4'
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata

from sharpzo_mlx.comparison.results import source_digest
from sharpzo_mlx.runs.versions import versions

INSTALLED = ("sharpzo-mlx", "mlx", "numpy", "distributed")
HINTS = {
    "sources": "the sources of sharpzo-mlx differ; install the same on both",
    "platform": "their numbers differ; let machines of one kind work together",
    "device": "their numbers differ; set SHARPZO_MLX_DEVICE alike on both",
    "blas": "their numbers differ; install the same BLAS",
}


def issue() -> dict[str, str]:
    """Return the passport of this process: the versions of packages, and what computes its numbers."""
    found = versions()
    del found["python"]  # numbers do not depend on it
    return {**found, "distributed": metadata.version("distributed"), "sources": source_digest()}


def disagreement(leader: Mapping[str, str], own: Mapping[str, str]) -> str:
    """Return the first difference of two passports in words for the worker, empty if there is none."""
    for name, theirs in leader.items():
        here = own.get(name, "missing")
        if here != theirs:
            hint = f"install the same: pip install {name}=={theirs}" if name in INSTALLED else HINTS.get(name, "")
            return f"{name} is {here} here and {theirs} at the leader; {hint}"
    return ""
