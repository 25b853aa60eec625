"""How much one request, and all of them together, may take of the server.

>>> Limits().files
64
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The bounds of a server; what is beyond them is refused, and nothing is kept of it.

    Attributes:
        file_bytes: of one image file.
        request_bytes: of one request's body.
        files: images of one request.
        parts: of the form of one request, files and other fields.
        part_header_bytes: of the headers of one part of a form.
        held_bytes: of the bodies of all requests that are under way.
        images: of all requests that are under way, read or waiting for the model.
        batch: images of one pass of the model.
        gather_seconds: the time that an idle model waits for more images to pass together.
        quiet_seconds: the longest silence while headers or a body arrive.
        body_seconds: the longest time that a body may take.
        connections: open at one time; a Mac's shell allows a process 256 open files.
    """

    file_bytes: int = 50_000_000
    request_bytes: int = 200_000_000
    files: int = 64
    parts: int = 1000
    part_header_bytes: int = 16_384
    held_bytes: int = 400_000_000
    images: int = 256
    batch: int = 32
    gather_seconds: float = 0.005
    quiet_seconds: float = 15.0
    body_seconds: float = 300.0
    connections: int = 200
