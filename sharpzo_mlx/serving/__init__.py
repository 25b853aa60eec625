"""A run as a web page and an HTTP API, for this machine or, with a token, for others.

It needs Starlette, uvicorn and python-multipart: `pip install "sharpzo-mlx[serve]"`.

>>> app = sharpzo_mlx.serving.app("runs/photo-m-0")  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sharpzo_mlx.runtime.extras import require

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from sharpzo_mlx.clip.handle import Clip
    from sharpzo_mlx.runs.run import Run
    from sharpzo_mlx.serving.limits import Limits

NEEDED = ("starlette", "uvicorn", "python_multipart")


def check_extra() -> None:
    """Check that what a server needs is installed.

    Raises:
        UserError: a package is missing; the error says what to install.
    """
    require("serve", NEEDED)


def app(
    run: Run | str | Path,
    *,
    clip: Clip | None = None,
    hosts: Iterable[str] = (),
    token: str | None = None,
    any_address: bool = False,
    limits: Limits | None = None,
) -> ASGIApp:
    """Return an ASGI application that labels images with a run, for a server of your own.

    Args:
        run: the run, its folder, or its name on the hub.
        clip: the checkpoint; None loads the one that the run names.
        hosts: names by which it is called, such as "photos.example.org", beside localhost and 127.0.0.1; other Host
            headers are refused.
        token: what every request must bear, as `Authorization: Bearer` or in the cookie that `/?token=` sets.
        any_address: whether it may be called by any IP address.
        limits: what requests may take; None for the defaults.

    Raises:
        UserError: a package is missing, or `predict` could not use the run.
    """
    check_extra()
    from sharpzo_mlx.serving.application import make_app

    return make_app(run, clip=clip, hosts=hosts, token=token, any_address=any_address, limits=limits)
