"""Images that are in the cloud only (pretended by the flags that macOS gives them), and files that are slow to read."""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sharpzo_mlx as sz
from sharpzo_mlx.cli import progress
from sharpzo_mlx.datasets.folder import read_folder
from sharpzo_mlx.features import digests
from sharpzo_mlx.features.cache import digest
from sharpzo_mlx.features.digests import digest_steps
from sharpzo_mlx.features.extract import EncodeProgress, encode_steps, finish, relay
from sharpzo_mlx.tuning.encoding import Encoding
from sharpzo_mlx.tuning.pipeline import tune

DATALESS, COMPRESSED = 0x40000000, 0x20


class Flagged:
    """What `os.stat` returns on macOS: with flags."""

    def __init__(self, found: os.stat_result, flags: int) -> None:
        self.found, self.st_flags = found, flags

    def __getattr__(self, name: str) -> Any:
        return getattr(self.found, name)


@pytest.fixture
def evicted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend macOS, and that the cats are in the cloud only."""
    stat = os.stat

    def flagged(path: Any, **details: Any) -> Any:
        dataless = isinstance(path, (str, Path)) and Path(path).parent.name == "cat" and Path(path).suffix == ".png"
        return Flagged(stat(path, **details), COMPRESSED | (DATALESS if dataless else 0))

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os, "stat", flagged)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in caplog.messages if "cloud" in line]


def test_tune_says_once_how_many_images_must_come(
    evicted: None, tiny_model: Path, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = sz.TuneConfig(shots=4, generations=1, steps=1).with_settings({"space.dimension": 4})
    run = tune(sz.load(tiny_model), photos, config, output=tmp_path / "run")
    drawn = [path for rows in run.record.images.by_split().values() for path, _ in rows]
    cats = [path for path in drawn if path.startswith("cat/")]
    assert len(cats) == 12
    assert said(caplog) == [
        f"12 images are in the cloud only, such as {photos / cats[0]}; each is downloaded when it is read, "
        "which takes time and needs the network"
    ]
    caplog.clear()
    sz.evaluate(run, [photos])
    assert [line.split()[0] for line in said(caplog)] == ["12"]
    caplog.clear()
    sz.predict(run, [photos / "cat" / "1.png", photos / "dog" / "1.png"])
    assert [line.split()[0] for line in said(caplog)] == ["1"]


def test_elsewhere_nothing_is_looked_at(
    tiny_model: Path,
    photos: Path,
    finished_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **details: Flagged(stat(path, **details), DATALESS))
    sz.predict(finished_run, photos / "cat" / "1.png")
    assert said(caplog) == []


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Let every file wait until the event is set, as one does that is being downloaded."""
    come = threading.Event()

    def wait(path: Path) -> bytes:
        assert come.wait(30)
        return digest(path)

    monkeypatch.setattr(digests, "digest", wait)
    monkeypatch.setattr(digests, "BEAT_SECONDS", 0.02)
    yield come
    come.set()


def test_there_is_progress_while_files_come(slow: threading.Event, tiny_model: Path, photos: Path) -> None:
    images = read_folder(photos)
    steps = encode_steps(sz.load(tiny_model), images)
    assert [next(steps) for _ in range(3)] == [EncodeProgress(0, 36, 0, looked_up=0)] * 3
    slow.set()
    assert finish(steps).labels.tolist() == list(images.labels)


def test_who_stops_does_not_wait_for_a_download(slow: threading.Event, tmp_path: Path) -> None:
    for name in range(40):
        (tmp_path / str(name)).write_bytes(b"x")
    steps = digest_steps(sorted(tmp_path.iterdir()), {})
    next(steps)
    started = time.monotonic()
    steps.close()
    assert time.monotonic() - started < 5


def test_records_tell_how_far_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every file is quick, but all of them are many."""

    def slowly(path: Path) -> bytes:
        time.sleep(0.12)
        return path.name.encode()

    for name in "abc":
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(digests, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(digests, "THREADS", 1)
    monkeypatch.setattr(digests, "digest", slowly)
    failed: dict[int, str] = {}
    steps = digest_steps([tmp_path / name for name in "abc"], failed)
    seen: list[int] = []
    assert finish(relay(steps, seen.append)) == {0: b"a", 1: b"b", 2: b"c"}
    assert sorted(set(seen)) == [0, 1, 2]
    assert seen == sorted(seen)


def test_a_refusal_of_privacy_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(digests, "digest", refuse)
    monkeypatch.setattr(sys, "platform", "darwin")
    failed: dict[int, str] = {}
    assert finish(digest_steps([Path("a.jpg")], failed)) == {}
    assert failed[0].startswith("operation not permitted; allow it for your terminal in System Settings, Privacy")


def test_what_is_looked_up_is_drawn() -> None:
    stream = io.StringIO()
    lines = progress.Lines(stream, iter(range(0, 1000, 20)).__next__)
    lines.draw(Encoding.of("train", EncodeProgress(0, 100, 0, looked_up=40)))
    assert stream.getvalue() == "train images: 0 of 100 read, 40 looked up\n"
