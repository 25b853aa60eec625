"""Run command lines in a forked child: what it printed, how it ended, what it took, and what it touched.

The parent has the library imported and never computes with MLX, so that a fork is cheap and safe. The child is audited
(`sys.addaudithook`): starting a program, the network, and writing or reading outside of its folders are noted.

>>> Child(allowed=Allowed((place,), (place,)), place=place).run(["predict", "run", "image.png"])  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS, MEGABYTES = 5.0, 1024.0  # what one input may take
PATIENCE = 25.0  # seconds after which a child is killed
ADDRESS_SPACE = 12 << 30  # bytes, so that a bomb harms nobody else
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
STARTING = {"subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "pty.spawn"}
NETWORK = {"socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "urllib.Request"}
# event -> how many of its arguments may be paths
CHANGING = {"os.rename": 2, "os.link": 2, "os.remove": 1, "os.rmdir": 1, "os.mkdir": 1, "os.symlink": 2,
            "os.truncate": 1, "os.chmod": 1, "os.chown": 1, "os.utime": 1}  # fmt: skip
SYSTEM = tuple(
    {
        os.path.realpath(one)
        for one in (sys.prefix, sys.base_prefix, "/usr", "/System", "/Library", "/proc", "/sys", "/dev")
    }
    | {"/etc/mime.types", "/etc/fonts", "/etc/localtime", "/etc/ssl", "/lib", "/lib64", "/etc/ld.so.cache"}
)


@dataclass(frozen=True)
class Allowed:
    """The folders that a child may write to, and those that it may read beside them and the system's."""

    written: tuple[Path, ...]
    read: tuple[Path, ...]


@dataclass(frozen=True)
class Outcome:
    """How a child ended.

    Attributes:
        code: the exit code, or minus the signal's number.
        seconds, wall, megabytes: of the processor, of the clock, and the most memory it held.
        out, err: what it printed.
        touched: what the audit noted.
    """

    code: int
    seconds: float
    wall: float
    megabytes: float
    out: str
    err: str
    touched: tuple[str, ...]


def warm_up() -> None:
    """Import every module of the package and what commands import late, before children are forked."""
    import sharpzo_mlx

    for module in pkgutil.walk_packages(sharpzo_mlx.__path__, "sharpzo_mlx."):
        importlib.import_module(module.name)
    for name in ("matplotlib.figure", "matplotlib.backends.backend_svg", "matplotlib.backends.backend_agg", "cma",
                 "jinja2", "tokenizers", "pillow_heif", "PIL.AvifImagePlugin", "rich.progress"):  # fmt: skip
        importlib.import_module(name)
    from PIL import Image

    Image.init()


def call(
    action: Callable[[], int],
    folder: Path,
    allowed: Allowed,
    *,
    limits: Callable[[], None] | None = None,
    patience: float = PATIENCE,
) -> Outcome:
    """Call an action in a child.

    Args:
        action: returns the exit code.
        folder: where the child's output is kept meanwhile; an absolute path.
        allowed: see `Allowed`.
        limits: called in the child before all else.
        patience: seconds after which it is killed (SIGKILL).
    """
    out, err, noted = (folder / f"child.{name}" for name in ("out", "err", "touched"))
    sys.stdout.flush()
    sys.stderr.flush()
    started = time.monotonic()
    child = os.fork()
    if not child:
        _become(action, (out, err, noted), allowed, limits or _no_limits)
    status, usage = _wait(child, started + patience)
    wall, seconds = time.monotonic() - started, usage.ru_utime + usage.ru_stime
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    texts = [path.read_text(errors="backslashreplace") if path.exists() else "" for path in (out, err, noted)]
    for path in (out, err, noted):
        path.unlink(missing_ok=True)
    code = os.waitstatus_to_exitcode(status)
    return Outcome(code, seconds, wall, usage.ru_maxrss / unit, texts[0], texts[1], tuple(texts[2].splitlines()))


def commands(lines: Sequence[Sequence[str]]) -> Callable[[], int]:
    """Return an action that runs command lines one after another, until one ends with another code than 0."""

    def run() -> int:
        from sharpzo_mlx.cli import main, streams

        streams.prepare()
        for words in lines:
            if code := main.run(list(words)):
                return code
        return 0

    return run


def _no_limits() -> None:
    pass


def _become(action: Callable[[], int], places: Sequence[Path], allowed: Allowed, limits: Callable[[], None]) -> None:
    """Be the child: never returns."""
    code = 1
    try:
        for number, path in ((1, places[0]), (2, places[1])):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        if sys.platform != "darwin":
            resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        limits()
        sys.addaudithook(_auditor(allowed, os.open(places[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)))
        code = action()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:
            code = code or 1
        os._exit(code)


def _wait(child: int, ends: float) -> tuple[int, resource.struct_rusage]:
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            return status, usage
        if time.monotonic() > ends:
            os.kill(child, signal.SIGKILL)
            _, status, usage = os.wait4(child, 0)
            return status, usage
        time.sleep(0.002)


def _auditor(allowed: Allowed, log: int) -> Callable[[str, tuple[Any, ...]], None]:
    """Return a hook that writes a line for each thing that reading data must not do."""
    written = tuple(os.path.realpath(path) for path in allowed.written)
    readable = (*written, *(os.path.realpath(path) for path in allowed.read), *SYSTEM)
    seen: set[str] = set()

    def note(words: str, detail: object) -> None:
        line = f"{words} {str(detail)[:200]!r}\n"
        if line not in seen:
            seen.add(line)
            os.write(log, line.encode(errors="backslashreplace"))

    def within(path: object, folders: tuple[str, ...], *, follow: bool) -> bool:
        if isinstance(path, int) or path is None:
            return True
        try:
            text = os.path.abspath(os.fsdecode(path))  # type: ignore[arg-type]
            real = (
                os.path.realpath(text)
                if follow
                else os.path.join(os.path.realpath(os.path.dirname(text)), os.path.basename(text))
            )
        except (ValueError, OSError):
            return True  # no path that could be opened
        return any(real == folder or real.startswith(folder + os.sep) for folder in folders)

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = given
            if flags and flags & WRITING:
                if path != os.devnull and not within(path, written, follow=True):
                    note("wrote", path)
            elif not within(path, readable, follow=False):
                note("read", path)
        elif event in STARTING:
            note("started", given[:1])
        elif event in NETWORK:
            note("network", event)
        elif event in CHANGING:
            place = given[-1] if event in ("os.remove", "os.rmdir", "os.mkdir") else -1
            for path in given[1:2] if event in ("os.link", "os.symlink") else given[: CHANGING[event]]:
                if (
                    isinstance(place, int) and place >= 0 and os.path.isdir("/proc/self/fd")
                ):  # relative to an open folder
                    path = os.path.join(os.readlink(f"/proc/self/fd/{place}"), os.fsdecode(path))
                if not within(path, written, follow=False):
                    note(event, path)
        elif event == "sqlite3.connect" and not within(given[0], written, follow=True):
            note("wrote", given[0])

    return hook
