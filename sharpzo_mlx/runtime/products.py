"""Multiply on the host without the false warnings of Macs with an M4 or newer.

Accelerate multiplies there with SME, which raises all floating-point flags whatever the numbers are. NumPy before
2.3.1, the newest for Python 3.10, takes the flags for its own and warns of zeros, overflow and invalid values. So host
products stand in functions that ignore these three; what is not finite shows in the results.

>>> @host_products()
... def multiply(a, b):
...     return a @ b
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


@contextmanager
def host_products() -> Iterator[None]:
    """Ignore the flags of NumPy's products inside a block, or as a decorator in every call of a function."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        yield
