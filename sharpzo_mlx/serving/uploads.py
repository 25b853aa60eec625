"""Read the images of a request: one raw body, or the files of a form, within limits that are kept while it arrives.

Nothing is written to disk, and a file's name is only handed back, never opened.

>>> uploads = await read_uploads(request, limits, room)  # doctest: +SKIP
>>> uploads[0].name, len(uploads[0].content)  # doctest: +SKIP
('new.jpg', 48213)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from sharpzo_mlx.serving.limits import Limits

RAW = ("application/octet-stream",)  # beside image/*
LONGEST_NAME = 1024  # characters of a file's name that are handed back
REST_SECONDS = 1.0  # that the rest of a refused body is read on
BUSY = {"Retry-After": "1"}
CLOSE = {"Connection": "close"}


@dataclass(frozen=True)
class Upload:
    """One image file that was sent, with the name that the sender gave it."""

    name: str
    content: bytes


class Room:
    """An amount that requests share; used in one event loop, so without a lock."""

    def __init__(self, total: int) -> None:
        self.total = self.free = total

    def take(self, amount: int) -> None:
        """Take an amount; HTTPException 503, with the time to come again, if there is not as much."""
        if amount > self.free:
            raise HTTPException(503, "too many images are under way; send it again in a second", BUSY)
        self.free -= amount

    def give_back(self, amount: int) -> None:
        """Give an amount back."""
        self.free += amount


class Held:
    """What one request has taken of a room, which a `with` block gives back."""

    def __init__(self, room: Room) -> None:
        self._room, self._taken = room, 0

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self._room.give_back(self._taken)

    def take(self, amount: int) -> None:
        """Take a further amount, see `Room.take`."""
        self._room.take(amount)
        self._taken += amount


async def read_uploads(request: Request, limits: Limits, held: Held) -> list[Upload]:
    """Read the body of a request.

    Args:
        request: with a form of files, or one image as its body.
        limits: what it may take.
        held: is given the bytes that are kept.

    Returns:
        The files, at least one, in order.

    Raises:
        HTTPException: 400 for a damaged form or one without files, 408 for a body that does not arrive, 413 beyond a
            limit, 415 for a body of another kind, 503 where other requests have taken the room.
    """
    try:
        return await _read(request, limits, held)
    except HTTPException as error:
        if error.headers is not CLOSE and "expect" not in request.headers:  # who expects a word has not begun to send
            await _drop_rest(request, limits)
        raise


async def _drop_rest(request: Request, limits: Limits) -> None:
    """Read a refused body on for a moment, so that its sender sees the answer and not a connection that was reset."""

    async def read() -> None:
        total = 0
        async for chunk in request.stream():
            if (total := total + len(chunk)) > 2 * limits.request_bytes:
                return

    with suppress(asyncio.TimeoutError, ClientDisconnect, RuntimeError):  # the last where all has been read
        await asyncio.wait_for(read(), REST_SECONDS)


async def _read(request: Request, limits: Limits, held: Held) -> list[Upload]:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if request.headers.get("content-encoding", "identity") != "identity":
        raise HTTPException(415, "Content-Encoding: send the files as they are")
    chunks = _chunks(request, limits, held)
    if kind == b"multipart/form-data":
        return await _read_form(chunks, options.get(b"boundary", b""), limits)
    if not kind.startswith(b"image/") and kind.decode("latin-1") not in RAW:
        raise HTTPException(415, "Content-Type: send multipart/form-data, image/* or application/octet-stream")
    content = bytearray()
    async for chunk in chunks:
        content += chunk
        _check_file(len(content), limits)
    if not content:
        raise HTTPException(400, "the body is empty: send an image, or a form with files")
    return [Upload("image", bytes(content))]


async def _chunks(request: Request, limits: Limits, held: Held) -> AsyncIterator[bytes]:
    """Yield the body as it arrives, and refuse one that is too long or too slow."""
    length, most = request.headers.get("content-length", ""), limits.request_bytes
    total, stream, loop = 0, request.stream().__aiter__(), asyncio.get_running_loop()
    _check_request(int(length) if length.isdigit() else 0, most)
    end = loop.time() + limits.body_seconds
    while True:
        try:
            chunk = await asyncio.wait_for(anext(stream), min(limits.quiet_seconds, end - loop.time()))
        except StopAsyncIteration:
            return
        except asyncio.TimeoutError:
            raise HTTPException(408, "the body took too long to arrive", CLOSE) from None
        total += len(chunk)
        _check_request(total, most)
        held.take(len(chunk))
        yield chunk


def _check_request(size: int, most: int) -> None:
    if size > most:
        raise HTTPException(413, f"more than {most / 1e6:g} MB in one request: send fewer images at once")


def _check_file(size: int, limits: Limits) -> None:
    if size > limits.file_bytes:
        raise HTTPException(413, f"a file of more than {limits.file_bytes / 1e6:g} MB: send a smaller one")


async def _read_form(chunks: AsyncIterator[bytes], boundary: bytes, limits: Limits) -> list[Upload]:
    try:
        form = _Form(boundary, limits)
        async for chunk in chunks:
            form.parser.write(chunk)
        form.parser.finalize()
    except FormParserError as error:
        raise HTTPException(400, "the form is damaged: send files as `curl -F image=@FILE` does") from error
    if not form.ended:
        raise HTTPException(400, "the form is cut short: its last boundary is missing")
    if not form.uploads:
        raise HTTPException(400, "no file in the form: send one as `curl -F image=@FILE` does")
    return form.uploads


class _Form:
    """Collects the files of a form as its bytes arrive; other fields are passed over."""

    def __init__(self, boundary: bytes, limits: Limits) -> None:
        if not boundary:
            raise HTTPException(400, "Content-Type: the form's boundary is missing")
        self.uploads: list[Upload] = []
        self.ended = False
        self._limits = limits
        self._headers: dict[bytes, bytes] = {}
        self._parts = self._header_bytes = 0
        self._field, self._value = bytearray(), bytearray()
        self._name: str | None = None  # of the file that is read; None for another field
        self._content = bytearray()
        self.parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._add_header(self._field, data[start:end]),
                "on_header_value": lambda data, start, end: self._add_header(self._value, data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._find_name,
                "on_part_data": self._add,
                "on_part_end": self._end,
                "on_end": self._finish,
            },
        )

    def _begin(self) -> None:
        self._headers, self._name, self._content = {}, None, bytearray()
        self._parts, self._header_bytes = self._parts + 1, 0
        if self._parts > self._limits.parts:
            raise HTTPException(413, f"more than {self._limits.parts} parts in one form: send the files alone")

    def _add_header(self, text: bytearray, words: bytes) -> None:
        text += words
        self._header_bytes += len(words)
        if self._header_bytes > self._limits.part_header_bytes:
            raise HTTPException(413, "the headers of a part are too long: send files as `curl -F image=@FILE` does")

    def _end_header(self) -> None:
        self._headers[bytes(self._field).lower()] = bytes(self._value)
        self._field.clear()
        self._value.clear()

    def _find_name(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"filename")
        if name is None:
            return
        if len(self.uploads) == self._limits.files:
            raise HTTPException(413, f"more than {self._limits.files} files in one request: send fewer at once")
        self._name = name.decode("utf-8", "replace")[:LONGEST_NAME]

    def _add(self, data: bytes, start: int, end: int) -> None:
        if self._name is not None:
            self._content += data[start:end]
            _check_file(len(self._content), self._limits)

    def _end(self) -> None:
        if self._name is not None:
            self.uploads.append(Upload(self._name, bytes(self._content)))
            self._name = None

    def _finish(self) -> None:
        self.ended = True
