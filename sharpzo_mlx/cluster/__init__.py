"""Other processes and machines that encode images and run methods for this one, on dask.distributed.

It needs `pip install "sharpzo-mlx[cluster]"`. The leader is the process that runs a command; it holds the results and
the scheduler. Workers connect to it, and hold nothing but models.

>>> with sz.open_cluster("local:2"):  # doctest: +SKIP
...     sz.fill_cache(clip, "photos/")
"""

from __future__ import annotations

from sharpzo_mlx.runtime.extras import require

NEEDED = ("distributed", "cryptography")


def check_extra() -> None:
    """Check that what a cluster needs is installed.

    Raises:
        UserError: a package is missing; the error says what to install.
    """
    require("cluster", NEEDED)
