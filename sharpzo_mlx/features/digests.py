"""Digest the content of image files, with progress: the first time that a run reads them.

Files that iCloud Drive and its like keep in the cloud alone look whole, with name and size; reading one downloads it.
So there is a notice before, and a record of progress about every second while the files come.

>>> finish(digest_steps([Path("photos/cat/1.jpg")], failed={}))  # doctest: +SKIP
{0: b'...'}
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path

from sharpzo_mlx.errors import notify, remedy, why
from sharpzo_mlx.features.cache import digest
from sharpzo_mlx.images.stored import read_order

DATALESS = 0x40000000  # SF_DATALESS in a file's flags: its content is not on this disk
THREADS = 8
BEAT_SECONDS = 1.0  # the longest time between two records of progress


def report_cloud_only(paths: Iterable[Path], *, more: bool = False) -> bool:
    """Give one notice about those of the files that are in the cloud only; does nothing except on macOS.

    Args:
        paths: the files.
        more: whether other files follow, so that the number in the notice is the least.

    Returns:
        Whether there was a notice.
    """
    if sys.platform != "darwin":
        return False
    absent = (path for path in paths if _is_dataless(path))
    if (first := next(absent, None)) is not None:
        count = f"{'at least ' if more else ''}{1 + sum(1 for _ in absent)}"
        notify(
            f"{count} images are in the cloud only, such as {first}; each is downloaded when it is read, "
            "which takes time and needs the network"
        )
        return True
    return False


def _is_dataless(path: Path) -> bool:
    try:
        return bool(getattr(os.stat(path), "st_flags", 0) & DATALESS)
    except OSError:
        return False


class Reading:
    """Files whose content is being digested, in several threads, from the beginning on.

    Args:
        paths: the files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        self._pool = ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1))
        places = read_order(paths)
        order = sorted(range(len(paths)), key=places.__getitem__)
        self._results = [(index, self._pool.submit(_digest_or_reason, paths[index])) for index in order]

    def stop(self) -> None:
        """Read no further file; whoever stops here does not wait for a download."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def steps(self, failed: dict[int, str]) -> Generator[int, None, dict[int, bytes]]:
        """Wait for the digests; see `digest_steps`."""
        found: dict[int, bytes] = {}
        beat = time.monotonic()
        for done, (index, one) in enumerate(self._results):
            while not one.done() or time.monotonic() - beat >= BEAT_SECONDS:
                wait((one,), timeout=max(0.0, beat + BEAT_SECONDS - time.monotonic()))
                if time.monotonic() - beat >= BEAT_SECONDS:
                    beat = time.monotonic()
                    yield done
            result = one.result()
            if isinstance(result, str):
                failed[index] = result
            else:
                found[index] = result
        return found


def digest_steps(paths: Sequence[Path], failed: dict[int, str]) -> Generator[int, None, dict[int, bytes]]:
    """Digest files in several threads.

    Args:
        paths: the files.
        failed: takes the reason of each file that cannot be opened, by position.

    Yields:
        How many files are read, about every second; nothing if that is all it takes.

    Returns:
        The digests of the others by position.
    """
    reading = Reading(paths)
    try:
        return (yield from reading.steps(failed))
    finally:
        reading.stop()


def read_in_chunks(files: Iterator[Path], most: Callable[[], int], *, ahead: bool) -> Iterator[Reading]:
    """Take files a chunk at a time and have them read; give one notice if some are in the cloud only.

    Args:
        files: any number of files.
        most: returns how many the next chunk takes.
        ahead: whether the next chunk is read while one is in use. Its files are then taken from `files` before.

    Raises:
        Exception: what `files` raises, once the chunks before have been used.
    """
    waiting: deque[Reading] = deque()
    failure: Exception | None = None
    reported = ended = False
    try:
        while True:
            while not failure and not ended and len(waiting) < (2 if ahead else 1):
                try:
                    chunk = list(islice(files, size := most()))
                except Exception as error:
                    failure = error
                    break
                if ended := not chunk:
                    break
                reported = reported or report_cloud_only(chunk, more=len(chunk) == size)
                waiting.append(Reading(chunk))
            if not waiting:
                if failure:
                    raise failure
                return
            yield waiting[0]
            waiting.popleft().stop()
    finally:
        for reading in waiting:
            reading.stop()


def _digest_or_reason(path: Path) -> bytes | str:
    try:
        return digest(path)
    except OSError as error:
        return "; ".join(filter(None, (why(error), remedy(error, ""))))


def digest_contents(digests: dict[int, bytes]) -> str:
    """Return one digest of the content of files in order."""
    return hashlib.sha256(b"".join(digests[index] for index in sorted(digests))).hexdigest()
