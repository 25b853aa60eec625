"""Whether Core ML can run exported packages on this machine; asked without coremltools.

>>> why_not_here()  # doctest: +SKIP
'Core ML is on Macs only'
"""

from __future__ import annotations

import platform
import sys

OLDEST = 14  # macOS that runs programs of the packages' operator set


def why_not_here() -> str | None:
    """Return why Core ML cannot run a package here, or None where it can."""
    if sys.platform != "darwin":
        return "Core ML is on Macs only"
    release = platform.mac_ver()[0]
    return None if int(release.split(".")[0] or 0) >= OLDEST else f"needs macOS {OLDEST}, this is {release}"
