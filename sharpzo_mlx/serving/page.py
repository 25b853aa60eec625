"""The page on which images are dropped: one template, one script and one style sheet, all from this server.

>>> Starlette(routes=Page(labeller, Limits()).routes())  # doctest: +SKIP
"""

from __future__ import annotations

import os
from pathlib import Path

import jinja2
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sharpzo_mlx.images.decode import IMAGE_SUFFIXES
from sharpzo_mlx.serving.labelling import Labeller
from sharpzo_mlx.serving.limits import Limits

HERE = Path(__file__).parent
STATIC = {"app.js": "text/javascript", "style.css": "text/css"}
SHOWN = 5  # labels of an image
NEAREST = 4  # labelled images beside it


class Page:
    """The page of a run, which is the same for every visitor."""

    def __init__(self, labeller: Labeller, limits: Limits) -> None:
        environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
        template = environment.from_string((HERE / "page.html.j2").read_text(encoding="utf-8"))
        prompt, near = labeller.run.prompt, len(labeller.neighbours)
        text = template.render(
            run=os.path.basename(os.path.abspath(labeller.run.folder)),
            classes=prompt.class_names,
            rate=labeller.default_rate,
            top=min(SHOWN, len(prompt.class_names)),
            neighbours=min(NEAREST, near),
            images=near,
            megabytes=limits.file_bytes // 1_000_000,
            accept=",".join(("image/*", *sorted(IMAGE_SUFFIXES))),
        )
        self._page = text.encode("utf-8", "replace")
        self._files = {name: (HERE / "static" / name).read_bytes() for name in STATIC}

    def routes(self) -> list[Route]:
        """Return the routes of the page and of its files."""
        files = [Route(f"/static/{name}", self._file) for name in STATIC]
        return [Route("/", self._show), *files]

    async def _show(self, _: Request) -> Response:
        return Response(self._page, media_type="text/html; charset=utf-8")

    async def _file(self, request: Request) -> Response:
        name = request.url.path.rpartition("/")[2]
        return Response(self._files[name], media_type=f"{STATIC[name]}; charset=utf-8")
