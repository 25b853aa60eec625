"""Import coremltools, and keep what it says of other packages and its progress bars from the user.

It speaks on import, as of Apple's libraries that only a Mac has, and while it works. What goes wrong it raises.

>>> with quiet():  # doctest: +SKIP
...     package = ct.models.MLModel("photo.mlpackage", skip_model_load=True)
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

from sharpzo_mlx.runtime.loggers import quiet_loggers


@contextmanager
def quiet() -> Iterator[None]:
    """Drop warnings, the messages of coremltools, and what it writes to stderr."""
    silent = quiet_loggers("coremltools", level=logging.CRITICAL)
    with silent, warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


with quiet():
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb

__all__ = ["ct", "mb", "quiet"]
