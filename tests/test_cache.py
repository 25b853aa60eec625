"""The feature cache: rows by content, two processes at once, damage, deletion, a place that cannot be written."""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sharpzo_mlx.features import cache
from sharpzo_mlx.features.cache import FeatureCache, digest, features_folder, make_key

WIDTH = 6


def rows(count: int, seed: int = 0) -> dict[bytes, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {rng.bytes(32): rng.standard_normal(WIDTH).astype(np.float32) for _ in range(count)}


def kept(given: dict[bytes, np.ndarray], name: str = "a") -> int:
    """How many of the rows a fresh opening finds, each checked bit for bit."""
    with FeatureCache(name, width=WIDTH) as store:
        found = store.get(list(given))
    for one, feature in found.items():
        np.testing.assert_array_equal(feature, given[one])
    return len(found)


def test_rows_come_back_bit_for_bit() -> None:
    given = rows(1300)  # more than one question holds
    with FeatureCache("a", width=WIDTH) as store:
        store.put(given)
        assert len(store.get([*given, b"\0" * 32])) == 1300
    assert kept(given) == 1300
    assert kept(given, "b") == 0


def test_key_depends_on_every_part_and_digest_on_every_byte(tmp_path: Path) -> None:
    assert (
        len({make_key("a", "b"), make_key("ab", ""), make_key("b", "a"), make_key("a", "c"), make_key("d", "b")}) == 5
    )
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    assert digest(tmp_path / "a") == hashlib.sha256(b"x" * 3_000_000).digest()


def test_deletion_between_and_while_open_loses_only_the_gain(caplog: pytest.LogCaptureFixture) -> None:
    first, second = rows(3), rows(4, seed=1)
    with FeatureCache("a", width=WIDTH) as store:
        store.put(first)
        (features_folder() / "a.sqlite").unlink()
        store.put(second)
        assert len(store.get([*first, *second])) == 4
    assert kept(second) == 4
    assert not caplog.records


@pytest.mark.parametrize("damage", ["no database", "torn", "a name that is no text"])
def test_a_damaged_file_is_begun_anew(damage: str, caplog: pytest.LogCaptureFixture) -> None:
    given = rows(2000)
    with FeatureCache("a", width=WIDTH) as store:
        store.put(given)
    path = features_folder() / "a.sqlite"
    if damage == "no database":
        path.write_bytes(b"this is no database" * 1000)
    elif damage == "a name that is no text":
        data = bytearray(path.read_bytes())
        place = data.index(b"features")  # in the schema; sqlite quotes it in its error
        data[place : place + 2] = b"\xfe\xff"
        path.write_bytes(data)
    else:
        data = bytearray(path.read_bytes())
        data[4096:] = b"\xff" * (len(data) - 4096)
        path.write_bytes(data)
    with FeatureCache("a", width=WIDTH) as store:
        store.get(list(given))
        store.put(given)
        assert len(store.get(list(given))) == 2000
    assert kept(given) == 2000
    assert any("damaged" in record.message for record in caplog.records)


def test_a_flipped_bit_in_a_row_makes_it_absent() -> None:
    given = rows(5)
    with FeatureCache("a", width=WIDTH) as store:
        store.put(given)
    path = features_folder() / "a.sqlite"
    feature = next(iter(given.values())).tobytes()
    data = path.read_bytes()
    assert feature in data
    path.write_bytes(data.replace(feature, bytes([feature[0] ^ 1]) + feature[1:]))
    assert kept(given) == 4


def test_an_unusable_place_is_said_once_and_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SHARPZO_MLX_CACHE", str(tmp_path / "file"))
    given = rows(2)
    with FeatureCache("a", width=WIDTH) as store:
        store.put(given)
        assert store.get(list(given)) == {}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "(file exists)" in caplog.text or "(not a directory)" in caplog.text
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> Iterator[sqlite3.Connection]:
    """Another connection that has the cache `a` locked, and a process that says so soon and waits for a second."""
    with FeatureCache("a", width=WIDTH) as store:
        store.put(rows(2))
    monkeypatch.setattr(cache, "LOCKED", set())
    for name, seconds in (("TRY_SECONDS", 0.02), ("QUIET_SECONDS", 0.1), ("LOCK_SECONDS", 1.0)):
        monkeypatch.setattr(cache, name, seconds)
    other = sqlite3.connect(features_folder() / "a.sqlite", check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    yield other
    other.close()


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    path = features_folder() / "a.sqlite"
    path.parent.mkdir(parents=True)
    (tmp_path / "victim").write_bytes(b"")
    path.symlink_to(tmp_path / "victim")
    given = rows(2)
    with FeatureCache("a", width=WIDTH) as store:
        store.put(given)
    assert kept(given) == 2
    assert (tmp_path / "victim").read_bytes() == b""


def test_a_lock_is_waited_for_and_the_user_told(locked: sqlite3.Connection, caplog: pytest.LogCaptureFixture) -> None:
    timer = threading.Timer(0.4, locked.rollback)
    timer.start()
    assert kept(rows(2)) == 2
    timer.join()
    (record,) = caplog.records
    assert "waiting for another process" in record.message


def test_a_lock_that_stays_is_given_up_once(locked: sqlite3.Connection, caplog: pytest.LogCaptureFixture) -> None:
    """All threads and all later caches of the process share the one wait."""
    found: list[int] = []
    started = time.monotonic()
    threads = [threading.Thread(target=lambda: found.append(kept(rows(2)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(5):
        with FeatureCache("a", width=WIDTH) as store:
            assert store.get(list(rows(2))) == {}
            store.put(rows(3))
    assert found == [0, 0, 0]
    assert time.monotonic() - started < 3
    messages = [record.message for record in caplog.records]
    assert len(messages) == 2
    assert "waiting for another process" in messages[0]
    assert "another process has had the cache locked for 1 s" in messages[1]
    locked.rollback()
    cache.LOCKED.clear()
    assert kept(rows(2)) == 2, "nothing of it is damaged"


WRITER = """
import sys
import numpy as np
from sharpzo_mlx.features.cache import FeatureCache
for n in range(40):
    with FeatureCache("a", width=6) as store:
        store.put({bytes([int(sys.argv[1]), n] * 16): np.full(6, n, np.float32)})
"""


def test_two_processes_write_at_once() -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(who)]) for who in (1, 2)]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    given = {bytes([who, n] * 16): np.full(6, n, np.float32) for who in (1, 2) for n in range(40)}
    assert kept(given) == 80


def test_a_file_larger_than_any_image_is_not_read(tmp_path: Path) -> None:
    """A terabyte that takes no room on the disk."""
    path = tmp_path / "a.tif"
    path.write_bytes(b"II*")
    os.truncate(path, 1 << 40)
    with pytest.raises(OSError, match="File too large"):
        digest(path)
