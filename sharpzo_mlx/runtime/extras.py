"""Say which of the package's extras to install, where something needs packages that only an extra brings.

>>> install("serve")
'pip install "sharpzo-mlx[serve]"'
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from sharpzo_mlx.errors import UserError


def install(extra: str) -> str:
    """Return the command that installs an extra."""
    return f'pip install "sharpzo-mlx[{extra}]"'


def has(package: str) -> bool:
    """Return whether a package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None


def require(extra: str, packages: Sequence[str]) -> None:
    """Check that the packages of an extra are installed.

    Raises:
        UserError: a package is missing; the error says what to install.
    """
    if missing := [name for name in packages if not has(name)]:
        raise UserError(f"{extra}: {', '.join(missing)} is missing; run {install(extra)}")
