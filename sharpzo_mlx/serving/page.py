"""The page on which images are dropped: one template, one script and one style sheet, all from this server.

>>> Starlette(routes=Page(present, Limits()).routes())  # doctest: +SKIP
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import jinja2
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sharpzo_mlx.images.decode import IMAGE_SUFFIXES
from sharpzo_mlx.serving.labelling import Labeller
from sharpzo_mlx.serving.limits import Limits
from sharpzo_mlx.serving.present import Present

HERE = Path(__file__).parent
STATIC = {"app.js": "text/javascript", "style.css": "text/css"}
SHOWN = 5  # labels of an image
NEAREST = 4  # labelled images beside it


class Page:
    """The page of a run, which is the same for every visitor; a new version of the run gives a new page."""

    def __init__(self, present: Present, limits: Limits) -> None:
        environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
        self._template = environment.from_string((HERE / "page.html.j2").read_text(encoding="utf-8"))
        self._present, self._limits = present, limits
        self._render = lru_cache(1)(self._render_anew)
        self._files = {name: (HERE / "static" / name).read_bytes() for name in STATIC}

    def _render_anew(self, labeller: Labeller) -> bytes:
        prompt, near = labeller.run.prompt, len(labeller.neighbours)
        text = self._template.render(
            run=labeller.run.title,
            version=labeller.version,
            classes=prompt.class_names,
            rate=labeller.default_rate,
            top=min(SHOWN, len(prompt.class_names)),
            neighbours=min(NEAREST, near),
            images=near,
            megabytes=self._limits.file_bytes // 1_000_000,
            accept=",".join(("image/*", *sorted(IMAGE_SUFFIXES))),
        )
        return text.encode("utf-8", "replace")

    def routes(self) -> list[Route]:
        """Return the routes of the page and of its files."""
        files = [Route(f"/static/{name}", self._file) for name in STATIC]
        return [Route("/", self._show), *files]

    async def _show(self, _: Request) -> Response:
        return Response(self._render(self._present.labeller()), media_type="text/html; charset=utf-8")

    async def _file(self, request: Request) -> Response:
        name = request.url.path.rpartition("/")[2]
        return Response(self._files[name], media_type=f"{STATIC[name]}; charset=utf-8")
