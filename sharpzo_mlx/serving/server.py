"""Serve a run over HTTP until Ctrl-C: find the port, make the token where others can reach it, and run uvicorn.

>>> serve("runs/photo-m-0", port=8000)  # doctest: +SKIP
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import secrets
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.errors import UserError, notify, why
from sharpzo_mlx.runs.run import Run
from sharpzo_mlx.runtime.loggers import quiet_loggers
from sharpzo_mlx.serving import app, check_extra
from sharpzo_mlx.serving.limits import Limits

if TYPE_CHECKING:
    from starlette.types import ASGIApp

TOKEN_VARIABLE = "SHARPZO_MLX_TOKEN"
TOKEN = re.compile(r"[A-Za-z0-9._~-]{16,512}")
BACKLOG = 512  # connections that the system keeps while they wait
LAST_SECONDS = 5  # after Ctrl-C for requests that are under way
_LOGGERS = ("uvicorn.error", "python_multipart")


def serve(
    run: Run | str | Path,
    *,
    port: int = 8000,
    host: str = "127.0.0.1",
    clip: Clip | None = None,
    hosts: Iterable[str] = (),
    limits: Limits | None = None,
    ready: Callable[[str], None] = notify,
) -> None:
    """Serve the page and the API of a run until Ctrl-C.

    Where other machines can reach the server, every request needs a token: that of the environment variable
    SHARPZO_MLX_TOKEN, or a new one. The variable holds on the loopback too.

    Args:
        run: the run, its folder, or its name on the hub.
        port: the port to listen on; 0 for a free one.
        host: the address to listen on; 127.0.0.1 is for this machine alone, 0.0.0.0 for all that can reach it.
        clip: the checkpoint; None loads the one that the run names.
        hosts: further names by which the server may be called.
        limits: what requests may take; None for the defaults.
        ready: is called with the address to open, once the server listens.

    Raises:
        UserError: a package is missing, the port is taken, the token is too weak, or `predict` could not use the run.
    """
    check_extra()
    limits = limits or Limits()
    with _listen(host, port) as listening:
        address = ipaddress.ip_address(listening.getsockname()[0].partition("%")[0])
        token = _find_token(needed=not address.is_loopback)
        names = _own_names(host, address, hosts)
        application = app(run, clip=clip, hosts=names, token=token, any_address=not address.is_loopback, limits=limits)
        listening.listen(BACKLOG)
        query = f"?token={token}" if token else ""
        shown = f"[{address}]" if address.version == 6 else str(address)
        ready(f"http://{names[0] if address.is_unspecified else shown}:{listening.getsockname()[1]}/{query}")
        with quiet_loggers(*_LOGGERS):  # warnings about strangers' requests; faults of this program are still shown
            _run(application, listening, limits)


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address, and does not listen yet."""
    if not 0 <= port <= 65535:
        raise UserError(f"port {port}: must be between 0 and 65535")
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, kind)
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"host {host!r}: not an address of this machine; 127.0.0.1 is for this machine alone"
        ) from error
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(place)
    except OSError as error:
        opened.close()
        raise UserError(_explain_taken(host, port, error)) from error
    return opened


def _explain_taken(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port}: another program uses it; choose another with --port, 0 for any free one"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"port {port}: {why(error)}; choose one from 1024 on with --port"
    return f"host {host!r}: cannot be listened on ({why(error)}); 127.0.0.1 is for this machine alone"


def _find_token(*, needed: bool) -> str | None:
    """Return the token of the environment, or a new one where it is needed."""
    given = os.environ.get(TOKEN_VARIABLE, "")
    if given and not TOKEN.fullmatch(given):
        raise UserError(f"{TOKEN_VARIABLE}: give 16 to 512 letters, digits or . _ ~ -, or unset it for a new token")
    return given or (secrets.token_urlsafe(24) if needed else None)


def _own_names(
    host: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address, hosts: Iterable[str]
) -> tuple[str, ...]:
    """Return the names by which the server may be called; the first one is for others, if it listens for them."""
    given = f"[{host}]" if ":" in host else host
    machine = () if address.is_loopback else (socket.gethostname(), f"{socket.gethostname()}.local")
    return (*machine, given, *hosts)


def _run(application: ASGIApp, listening: socket.socket, limits: Limits) -> None:
    import uvicorn

    from sharpzo_mlx.serving.connections import make_protocol

    config = uvicorn.Config(
        application,
        http=make_protocol(limits.quiet_seconds),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=limits.connections,
        timeout_graceful_shutdown=LAST_SECONDS,
    )
    with suppress(KeyboardInterrupt):  # uvicorn has ended by then, and passes Ctrl-C on
        uvicorn.Server(config).run(sockets=[listening])
