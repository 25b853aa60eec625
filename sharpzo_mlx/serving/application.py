"""Put the page, the API and the guard together as one ASGI application.

>>> app = make_app(Run.load("runs/photo-m-0"))  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.runs.run import Run
from sharpzo_mlx.serving.api import Api, Json
from sharpzo_mlx.serving.limits import Limits
from sharpzo_mlx.serving.page import Page
from sharpzo_mlx.serving.present import Present
from sharpzo_mlx.serving.security import Guard


def make_app(
    run: Run | str | Path,
    *,
    clip: Clip | None = None,
    hosts: Iterable[str] = (),
    token: str | None = None,
    any_address: bool = False,
    limits: Limits | None = None,
) -> ASGIApp:
    """Return the application that `serve` runs; see `serving.app` for its arguments."""
    limits = limits or Limits()
    present = Present.of(run, clip)
    api = Api(present, limits)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await api.close()
        await present.close()

    handlers = {HTTPException: _explain, Exception: _explain_bug}
    routes = [*Page(present, limits).routes(), *api.routes()]
    application = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    return Guard(application, hosts=hosts, token=token, any_address=any_address)


async def _explain(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return Json({"error": error.detail}, error.status_code, error.headers)


async def _explain_bug(_: Request, error: Exception) -> Response:
    return Json({"error": f"a fault of the server ({type(error).__name__}); its terminal says more"}, 500)
