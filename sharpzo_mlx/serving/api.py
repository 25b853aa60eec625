"""The requests that programs send: `POST /predict`, `GET /classes`, `GET /health` and `GET /openapi.json`.

>>> api = Api(present, Limits())  # doctest: +SKIP
>>> Starlette(routes=api.routes())  # doctest: +SKIP
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeVar

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.images.load import default_workers
from sharpzo_mlx.serving.batching import Batcher
from sharpzo_mlx.serving.labelling import Answer, Labeller, Question, Wish
from sharpzo_mlx.serving.limits import Limits
from sharpzo_mlx.serving.openapi import describe
from sharpzo_mlx.serving.present import Present
from sharpzo_mlx.serving.uploads import Held, Room, Upload, read_uploads

MOST_NEIGHBOURS = 20
GONE = 499  # the client has gone; nobody reads this
T = TypeVar("T")


class Json(JSONResponse):
    """A JSON answer in ASCII: class names may hold what UTF-8 cannot."""

    def render(self, content: Any) -> bytes:
        """Return the answer's bytes, which end a line."""
        return json.dumps(content, allow_nan=False).encode("ascii") + b"\n"


@dataclass(frozen=True)
class Result:
    """One image of a request: what it was called, its answer or the reason why there is none, and the run's version."""

    name: str
    answer: Answer | None
    version: int
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the record of `predictions`, that of `predict --json` with the nearest images."""
        answer = self.answer or Answer((), False, ())
        near = [
            {"label": one.label, "similarity": one.similarity, "image": f"/neighbours/{self.version}/{one.number}.jpg"}
            for one in answer.neighbours
        ]
        labels = [{"label": label, "probability": share} for label, share in answer.labels]
        return {
            "name": self.name, "labels": labels, "error": self.error, "rejected": answer.rejected, "neighbours": near,
        }  # fmt: skip


class Api:
    """What answers the requests of programs, and of the page.

    Args:
        present: the run.
        limits: what requests may take.
    """

    def __init__(self, present: Present, limits: Limits) -> None:
        self._present, self._limits = present, limits
        self._batcher = Batcher(_label, size=limits.batch, gather_seconds=limits.gather_seconds)
        self._readers = ThreadPoolExecutor(default_workers(), thread_name_prefix="sharpzo-mlx-read")
        self._bytes, self._images = Room(limits.held_bytes), Room(limits.images)

    def routes(self) -> list[Route]:
        """Return the routes of the API."""
        return [
            Route("/predict", self._predict, methods=["POST"]),
            Route("/classes", self._classes),
            Route("/health", self._health),
            Route("/openapi.json", self._openapi),
            Route("/neighbours/{version}/{name}.jpg", self._thumbnail),
        ]

    async def close(self) -> None:
        """End the threads."""
        await self._batcher.close()
        await asyncio.to_thread(self._readers.shutdown, cancel_futures=True)

    async def _predict(self, request: Request) -> Response:
        labeller = self._present.labeller()
        wish = read_wish(request, len(labeller.run.prompt.class_names))
        try:
            notes = labeller.check(wish)
        except UserError as error:
            raise HTTPException(400, str(error)) from error
        try:
            with Held(self._bytes) as held, Held(self._images) as images:
                uploads = await read_uploads(request, self._limits, held)
                images.take(len(uploads))
                results = await _while_connected(request, self._answer(uploads, labeller, wish))
        except ClientDisconnect:
            return Response(status_code=GONE)
        content = {"predictions": [result.to_json() for result in results], "notes": notes, "version": labeller.version}
        return Json(content, 200 if any(result.error is None for result in results) else 422)

    async def _answer(self, uploads: list[Upload], labeller: Labeller, wish: Wish) -> list[Result]:
        """Read the images in threads, let the readable ones pass the model, and return all results in order."""
        loop, read = asyncio.get_running_loop(), labeller.read
        pictures = await asyncio.gather(*(loop.run_in_executor(self._readers, read, one.content) for one in uploads))
        questions = [(labeller, Question(picture, wish)) for picture in pictures if isinstance(picture, np.ndarray)]
        answers, version = iter(await self._batcher.ask(questions)), labeller.version
        return [
            Result(one.name, None, version, picture)
            if isinstance(picture, str)
            else _as_result(one.name, next(answers), version)
            for one, picture in zip(uploads, pictures, strict=True)
        ]

    async def _classes(self, _: Request) -> Response:
        labeller = self._present.labeller()
        prompt = labeller.run.prompt
        pairs = zip(prompt.class_names, prompt.folders, strict=True)
        classes = [{"label": name, "folder": folder} for name, folder in pairs]
        return Json({"classes": classes, "version": labeller.version})

    async def _health(self, _: Request) -> Response:
        labeller, images = self._present.labeller(), self._images
        return Json(
            {
                "status": "ok",
                "run": labeller.run.title,
                "version": labeller.version,
                "classes": len(labeller.run.prompt.class_names),
                "rejects": labeller.default_rate is not None,
                "labelled_images": len(labeller.neighbours),
                "under_way": images.total - images.free,
            }
        )

    async def _openapi(self, _: Request) -> Response:
        return Json(describe(self._limits))

    async def _thumbnail(self, request: Request) -> Response:
        version, number = (_read_number(request.path_params[key]) for key in ("version", "name"))
        content, labeller = None, self._present.of_version(version)
        if labeller is not None:
            draw = labeller.neighbours.thumbnail
            content = await asyncio.get_running_loop().run_in_executor(self._readers, draw, number)
        if content is None:
            raise HTTPException(404, "no such image any more")
        return Response(content, media_type="image/jpeg")


def read_wish(request: Request, classes: int) -> Wish:
    """Return what the query of a request asks for; HTTPException 400 names what cannot be used."""
    known = {"top": "1", "reject": "", "neighbours": "0"}
    if unknown := set(request.query_params) - set(known):
        raise HTTPException(400, f"{min(unknown)[:40]}: no such parameter; there are top, reject and neighbours")
    given = {**known, **request.query_params}
    try:
        reject = float(given["reject"]) if given["reject"] else None
    except ValueError as error:
        raise HTTPException(400, "reject: give a rate above 0 and below 1, such as 0.05") from error
    top = _whole_number("top", given["top"], least=1, most=10**6)
    near = _whole_number("neighbours", given["neighbours"], least=0, most=MOST_NEIGHBOURS)
    return Wish(min(top, classes), reject, near)


def _whole_number(name: str, text: str, *, least: int, most: int) -> int:
    plain = text.isascii() and text.isdigit() and len(text) < 10
    if not plain or not least <= int(text) <= most:
        raise HTTPException(400, f"{name}: give a whole number, at least {least} and at most {most}")
    return int(text)


def _read_number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1


def _label(items: list[tuple[Labeller, Question]]) -> list[Answer]:
    """Answer questions, each by the version of the run that its request began with."""
    return [
        answer
        for labeller, group in groupby(items, key=lambda item: item[0])
        for answer in labeller.label([question for _, question in group])
    ]


def _as_result(name: str, answer: Answer | Exception, version: int) -> Result:
    if isinstance(answer, Answer):
        return Result(name, answer, version)
    return Result(
        name, None, version, str(answer) if isinstance(answer, UserError) else "the model failed on this image"
    )


async def _while_connected(request: Request, work: Awaitable[T]) -> T:
    """Return what the work returns, and cancel it when the client goes away; ClientDisconnect then."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_wait_for_end(request.receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        task.cancel()
        gone.cancel()


async def _wait_for_end(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
