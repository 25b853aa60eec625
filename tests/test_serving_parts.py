"""The parts of `serve`: batches, nearest images that are gone or foreign, and a short load."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import shutil
import threading
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from types import ModuleType

import pytest
from served import serving

import sharpzo_mlx as sz
from sharpzo_mlx.images.decode import ImageError, held_content
from sharpzo_mlx.images.load import read_picture, stream
from sharpzo_mlx.serving.batching import Batcher


def test_requests_that_wait_pass_together_and_keep_their_order() -> None:
    batches: list[list[int]] = []

    def work(items: list[int]) -> list[int]:
        batches.append(items)
        return [10 * item for item in items]

    async def ask() -> list[list[int | Exception]]:
        batcher = Batcher(work, size=4, gather_seconds=0.05)
        asked = [batcher.ask([number, number + 100]) for number in range(5)]
        found = await asyncio.gather(*asked, batcher.ask([]))
        await batcher.close()
        return found

    assert asyncio.run(ask()) == [*([10 * n, 10 * n + 1000] for n in range(5)), []]
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert list(chain(*batches)) == [0, 100, 1, 101, 2, 102, 3, 103, 4, 104]


def test_only_the_item_that_is_at_fault_fails() -> None:
    def work(items: list[int]) -> list[float]:
        return [1 / item for item in items]

    async def ask() -> list[float | Exception]:
        batcher = Batcher(work, size=8, gather_seconds=0.01)
        found = await batcher.ask([1, 2, 0, 4])
        assert await batcher.ask([2]) == [0.5]
        await batcher.close()
        return found

    found = asyncio.run(ask())
    assert found[:2] + found[3:] == [1.0, 0.5, 0.25]
    assert isinstance(found[2], ZeroDivisionError)


def test_what_nobody_waits_for_is_not_worked_on() -> None:
    """A request that is cancelled while the thread is busy with another one's batch."""
    done: list[int] = []
    going, go_on = threading.Event(), threading.Event()

    def work(items: list[int]) -> list[int]:
        done.extend(items)
        going.set()
        assert go_on.wait(10)
        return items

    async def ask() -> None:
        batcher = Batcher(work, size=1, gather_seconds=0)
        first = asyncio.create_task(batcher.ask([1]))
        await asyncio.to_thread(going.wait, 10)
        second, third = asyncio.create_task(batcher.ask([2])), asyncio.create_task(batcher.ask([3]))
        await asyncio.sleep(0)
        first.cancel()
        second.cancel()
        await asyncio.sleep(0)
        go_on.set()
        assert await third == [3]
        await batcher.close()

    asyncio.run(ask())
    assert done == [1, 3]


def test_all_work_is_done_in_one_thread() -> None:
    def work(items: list[int]) -> list[int]:
        return [threading.get_ident() for _ in items]

    async def ask() -> set[object]:
        batcher = Batcher(work, size=2, gather_seconds=0)
        found = await asyncio.gather(*(batcher.ask([number]) for number in range(9)))
        await batcher.close()
        return {one for row in found for one in row}

    assert len(asyncio.run(ask()) - {threading.get_ident()}) == 1


def test_the_content_of_a_file_gives_the_picture_of_the_file(tiny_model: Path, photos: Path, testbed: Path) -> None:
    """JPEG files too, which other decoders read from the disk."""
    config = sz.load(tiny_model).config.preprocessor
    paths = [*sorted(photos.rglob("*.png"))[:3], *sorted((testbed / "pacs/photo/val").rglob("*.jpg"))[:20]]
    (batch,) = stream(paths, config)
    for path, picture in zip(paths, batch.pictures, strict=True):
        content = read_picture(path.read_bytes(), config)
        assert not isinstance(content, str)
        assert (content == picture).all()
    assert read_picture(b"no image", config) == "not an image of a kind that can be read"
    with pytest.raises(ImageError, match=r"x\.png: the file is empty"), held_content(b"", "x.png"):
        pass


def test_images_that_are_gone_are_not_shown(
    finished_run: Path, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All of them at the start, or one later."""
    moved = shutil.copytree(photos, tmp_path / "photos")
    plain = sz.Run.load(finished_run)
    run = sz.Run(finished_run, plain.config, dataclasses.replace(plain.record, dataset=str(moved)))
    content = (photos / plain.record.images.train[0][0]).read_bytes()
    with serving(run) as server:
        (record,) = server.predict([("x", content)], "?neighbours=1").json["predictions"]
        shutil.rmtree(moved)
        assert server.get(record["neighbours"][0]["image"]).status == 404
        assert server.predict([("x", content)], "?neighbours=1").status == 200
    with caplog.at_level(logging.WARNING), serving(run) as server:
        assert server.get("/health").json["labelled_images"] == 0
        assert server.predict([("x", content)], "?neighbours=3").json["predictions"][0]["neighbours"] == []
        assert "not here" in server.get("/").body.decode()
    assert "nearest images are left out" in caplog.text


def test_a_run_cannot_show_files_from_outside_of_its_data_set(finished_run: Path, photos: Path, tmp_path: Path) -> None:
    """It names its images itself, and may come from a stranger."""
    secret = shutil.copy(photos / "cat" / "0.png", tmp_path / "secret.png")
    (tmp_path / "own" / "cat").mkdir(parents=True)
    shutil.copy(photos / "cat" / "1.png", tmp_path / "own" / "cat")
    (tmp_path / "own" / "cat" / "link.png").symlink_to(secret)
    rows = tuple((name, 0) for name in (str(secret), "../secret.png", "cat/link.png", "cat/1.png"))
    plain = sz.Run.load(finished_run)
    images = dataclasses.replace(plain.record.images, train=rows, val=())
    record = dataclasses.replace(plain.record, dataset=str(tmp_path / "own"), images=images)
    with serving(sz.Run(finished_run, plain.config, record)) as server:
        assert server.get("/health").json["labelled_images"] == 1


def test_ten_clients_for_three_seconds(
    load_benchmark: Callable[[str], ModuleType], finished_run: Path, photos: Path
) -> None:
    """The command, in a process of its own; benchmarks/serve_load.py has fifty for a minute."""
    script = load_benchmark("serve_load")
    images = [path.read_bytes() for path in sorted(photos.rglob("*.png"))]
    found = script.measure(finished_run, images, clients=10, seconds=3).summary()
    assert found["errors"] == 0
    assert found["answers"] > 50
    assert found["p95_ms"] < 5000
    assert found["last_mb"] < found["first_mb"] + 30
