"""Keep image features on disk: one sqlite file for each model and preprocessing, one row for each image content.

The key of a row is the SHA-256 of the image file's bytes: a moved or renamed image is found, an edited one is
not. sqlite's locks make the file safe for two processes at once. The cache is optional: a damaged file is started anew,
and if the cache cannot be used at all, or stays locked, a notice says so and work continues without it.

>>> with FeatureCache("0" * 64, width=512) as cache:  # doctest: +SKIP
...     cache.put({digest: feature})
"""

from __future__ import annotations

import errno
import hashlib
import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np

from sharpzo_mlx.errors import notify, why
from sharpzo_mlx.files import cache_folder, sha256_of
from sharpzo_mlx.images.decoding_memory import BYTES
from sharpzo_mlx.images.stored import open_stored

FORMAT = "1"  # part of the key: raise it when the pixels or the rows' layout change
TABLE = "CREATE TABLE IF NOT EXISTS features (digest BLOB PRIMARY KEY, feature BLOB) WITHOUT ROWID"
QUIET_SECONDS, LOCK_SECONDS = 2.0, 20.0  # a lock of another process is waited for without a word, and in all
TRY_SECONDS = 1.0  # the part of it after which Ctrl-C is heard
LOCKED: set[Path] = set()  # files that this process waited for in vain: it does not wait for them again
SELECTED = 500  # digests in one SELECT: older versions of sqlite allow 999 variables

T = TypeVar("T")


def features_folder() -> Path:
    """Return the folder of the feature caches, which can be deleted at any time."""
    return cache_folder() / "features"


def make_key(*parts: str) -> str:
    """Return the name of the cache file for a model's fingerprint, its preprocessing and the precision of its tower."""
    return hashlib.sha256("\n".join((FORMAT, *parts)).encode()).hexdigest()[:32]


def digest(path: Path) -> bytes:
    """Return the SHA-256 of an image, as 32 bytes; OSError if it cannot be read or is larger than any may be."""
    with open_stored(path) as file:
        if file.seek(0, 2) > BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
        file.seek(0)
        return sha256_of(file)


class FeatureCache:
    """Rows of float32 by the digest of their image file; use it in a `with` block and in one thread at a time."""

    def __init__(self, name: str, *, width: int) -> None:
        self.path = features_folder() / f"{name}.sqlite"
        self.width = width
        self._connection: sqlite3.Connection | None = None
        self._given_up = False

    def __enter__(self) -> FeatureCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def get(self, digests: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Return the rows [width] that are stored, by digest; rows that are damaged or not finite count as missing."""
        rows: dict[bytes, np.ndarray] = {}
        for start in range(0, len(digests), SELECTED):
            nothing: list[tuple[bytes, object]] = []
            select = partial(_select, digests=digests[start : start + SELECTED])
            found = self._attempt(select, nothing)
            features = ((one, self._unpack(blob)) for one, blob in found)
            rows.update({one: feature for one, feature in features if feature is not None})
        return rows

    def put(self, rows: Mapping[bytes, np.ndarray]) -> None:
        """Store rows [width] by digest, in one transaction; rows that are not finite are never stored."""
        packed = [(found, self._pack(feature)) for found, feature in rows.items() if np.isfinite(feature).all()]
        self._attempt(partial(_insert, rows=packed), None)

    def _pack(self, feature: np.ndarray) -> bytes:
        data = np.ascontiguousarray(feature, dtype="<f4").tobytes()
        return data + zlib.crc32(data).to_bytes(4, "little")

    def _unpack(self, blob: object) -> np.ndarray | None:
        if not isinstance(blob, bytes) or len(blob) != 4 * self.width + 4:
            return None
        data, check = blob[:-4], int.from_bytes(blob[-4:], "little")
        if zlib.crc32(data) != check:
            return None
        feature = np.frombuffer(data, dtype="<f4").astype(np.float32)
        return feature if np.isfinite(feature).all() else None  # rows of damaged weights, which were stored once

    def _attempt(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """Run `work`; after an error (such as a deleted file) reopen the file and run it again; then give up."""
        for first in (True, False):
            if self._given_up or self.path in LOCKED:
                break
            try:
                return self._wait_for(work)
            except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
                self._close()
                if first and not _is_lock(error):
                    self._remove_if_damaged(error)
                else:
                    self._give_up(error)
        return otherwise

    def _wait_for(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work`, again and again while another process has the file locked; the lock's error at the end."""
        began = time.monotonic()
        while True:
            try:
                return work(self._open())
            except sqlite3.OperationalError as error:
                waited = time.monotonic() - began
                if not _is_lock(error) or waited >= LOCK_SECONDS or self.path in LOCKED:
                    raise
                if waited >= QUIET_SECONDS:
                    _notify_once(f"{self.path}: waiting for another process that has the feature cache locked")

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.is_symlink():  # none of ours: nothing is written through it
                self.path.unlink()
            wait = min(TRY_SECONDS, LOCK_SECONDS)
            connection = sqlite3.connect(self.path, timeout=wait, check_same_thread=False)
            try:
                with connection:
                    connection.execute(TABLE)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _remove_if_damaged(self, error: Exception) -> None:
        """Remove a damaged file; a lock, a full disk or a missing permission is not damage."""
        damage = (sqlite3.DatabaseError, UnicodeDecodeError)  # the latter of a message that quotes damaged bytes
        if isinstance(error, damage) and not isinstance(error, sqlite3.OperationalError):
            notify(f"{self.path}: the feature cache is damaged ({error}); it is started anew")
            for name in (self.path, Path(f"{self.path}-journal")):
                name.unlink(missing_ok=True)

    def _give_up(self, error: Exception) -> None:
        self._given_up = True
        reason = why(error) if isinstance(error, OSError) else f"{error}"
        if _is_lock(error):
            LOCKED.add(self.path)
            reason = f"another process has had the cache locked for {LOCK_SECONDS:.0f} s"
        _notify_once(f"{self.path}: features are not cached ({reason}); the next run encodes them again")


def _is_lock(error: Exception) -> bool:
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)


_said: set[str] = set()
_saying = threading.Lock()


def _notify_once(line: str) -> None:
    """Give a notice once in this process: every split of a run has a cache of its own, and every thread."""
    with _saying:
        if line in _said:
            return
        _said.add(line)
    notify(line)


def _select(connection: sqlite3.Connection, digests: Sequence[bytes]) -> list[tuple[bytes, object]]:
    marks = ",".join("?" * len(digests))
    return connection.execute(
        f"SELECT digest, feature FROM features WHERE digest IN ({marks})", list(digests)
    ).fetchall()


def _insert(connection: sqlite3.Connection, rows: list[tuple[bytes, bytes]]) -> None:
    with connection:
        connection.executemany("INSERT OR REPLACE INTO features VALUES (?, ?)", rows)
