"""Read sizes of memory and durations from text, as users write them on the command line.

This module imports nothing heavy, so that `--help` stays fast.

>>> parse_bytes("1.5GB"), parse_seconds("5m")
(1500000000, 300.0)
"""

from __future__ import annotations

import re

from sharpzo_mlx.errors import UserError

_PREFIXES = "KMGT"
_BYTES = {"": 1, "B": 1}
_BYTES |= {f"{prefix}{end}": 1000**power for power, prefix in enumerate(_PREFIXES, 1) for end in ("", "B")}
_BYTES |= {f"{prefix}IB": 1024**power for power, prefix in enumerate(_PREFIXES, 1)}
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def parse_bytes(text: str) -> int:
    """Read a size of memory such as 512MB, 1.5GB, 2GiB or 1000000.

    Args:
        text: a number with an optional unit, decimal (KB, MB, GB, TB) or binary (KiB, MiB, GiB, TiB), in any case.

    Returns:
        The size in whole bytes, at least 1.

    Raises:
        UserError: the text is not a size, or is less than one byte.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)\s*", text)
    unit = _BYTES.get(match[2].upper()) if match else None
    size = int(float(match[1]) * unit) if match and unit else 0
    if size < 1:
        reason = "less than one byte" if match and unit else "not a size of memory"
        raise UserError(f"{text!r} is {reason}; write it like 512MB, 1.5GB or 2GiB")
    return size


def parse_seconds(text: str) -> float:
    """Read a duration such as 90, 90s, 5m, 5min or 1.5h.

    Returns:
        The duration in seconds.

    Raises:
        UserError: the text is not a duration.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)\s*", text.lower())
    if not match or match[2] not in _SECONDS:
        raise UserError(f"{text!r} is not a duration; write it like 90s, 5m or 1h")
    return float(match[1]) * _SECONDS[match[2]]
