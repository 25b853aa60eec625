"""Keep what libraries say in their logs from the user while something of theirs runs.

>>> with quiet_loggers("uvicorn.error"):
...     logging.getLogger("uvicorn.error").level == logging.ERROR
True
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_loggers(*names: str, level: int = logging.ERROR) -> Iterator[None]:
    """Drop the messages of some loggers below a level, and give the loggers their own levels back afterwards."""
    before = {logging.getLogger(name): logging.getLogger(name).level for name in names}
    for logger in before:
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, own in before.items():
            logger.setLevel(own)
