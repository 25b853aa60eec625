"""`serve` while something is added to its run: later requests get the new version, whole, and earlier ones the old."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import browsing
from painted_folders import paint_class
from served import Served, as_numbers, serving

import sharpzo_mlx as sz
from sharpzo_mlx.serving import labelling
from sharpzo_mlx.serving.present import Present


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture
def image(photos: Path) -> bytes:
    return (photos / "cat" / "11.png").read_bytes()


@pytest.fixture
def fox(tmp_path: Path) -> Path:
    paint_class(tmp_path / "more" / "fox", seed=52, count=5)
    return tmp_path / "more"


def wait(served: Served, version: int) -> dict[str, Any]:
    """Ask until a version is served, for a minute at most; return what `/health` says then."""
    end = time.monotonic() + 60
    while (health := served.get("/health").json)["version"] != version:
        assert time.monotonic() < end, health
        time.sleep(0.02)
    found: dict[str, Any] = health
    return found


def test_what_is_added_is_served_and_what_is_taken_back_is_not(
    run: Path, fox: Path, image: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(run) as served:
        before = served.predict([("x", image)], "?top=9&neighbours=1").json
        assert (before["version"], len(before["predictions"][0]["labels"])) == (1, 3)
        added = sz.add(run, fox, classes="person")
        health = wait(served, 2)
        assert (health["classes"], health["run"]) == (5, "run")
        after = served.predict([("x", image)], "?top=9").json
        (own,) = sz.predict(added, save(run, image), top=9)
        assert as_numbers(after["predictions"][0]["labels"]) == pytest.approx(dict(own.labels), abs=1e-6)
        assert after["version"] == served.get("/classes").json["version"] == 2
        assert {"fox", "person"} <= {one["label"] for one in served.get("/classes").json["classes"]}
        page = served.get("/").body.decode()
        assert 'data-version="2"' in page
        assert "<bdi>fox</bdi>" in page
        # an answer of the version before still has its picture
        assert served.get(before["predictions"][0]["neighbours"][0]["image"]).status == 200
        assert served.get("/neighbours/3/0.jpg").status == 404
        sz.go_back(run)
        assert wait(served, 1)["classes"] == 3
        assert (
            served.predict([("x", image)], "?top=9").json["predictions"][0]["labels"]
            == (before["predictions"][0]["labels"])
        )
    assert "version 2 is served from now on (5 images; new: fox; by name: person)" in caplog.text


def save(run: Path, image: bytes) -> Path:
    file = run.parent / "x.png"
    file.write_bytes(image)
    return file


def test_requests_are_answered_while_a_version_is_opened(
    run: Path, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the old one, to their end, also if they began before and pass the model after."""
    let_go, opening = threading.Event(), threading.Event()
    plain = labelling.Labeller.renewed

    def renewed(own: labelling.Labeller, found: sz.Run) -> labelling.Labeller:
        opening.set()
        assert let_go.wait(60)
        return plain(own, found)

    monkeypatch.setattr(labelling.Labeller, "renewed", renewed)
    with serving(run) as served:
        sz.add(run, classes="person")
        assert served.get("/health").json["version"] == 1
        assert opening.wait(60)
        answer = served.predict([("x", image)], "?top=9").json
        assert (answer["version"], len(answer["predictions"][0]["labels"])) == (1, 3)
        let_go.set()
        wait(served, 2)
        assert len(served.predict([("x", image)], "?top=9").json["predictions"][0]["labels"]) == 4


def test_many_requests_during_additions_are_each_of_one_version(run: Path, image: bytes) -> None:
    wrong: list[Any] = []
    over = threading.Event()

    def ask(served: Served) -> None:
        while not over.is_set():
            reply = served.predict([("x", image)] * 3, "?top=99").json
            counts = {len(one["labels"]) for one in reply["predictions"]}
            if counts != {2 + reply["version"]}:
                wrong.append(reply)

    with serving(run) as served:
        threads = [threading.Thread(target=ask, args=(served,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for number, name in enumerate(("person", "tree", "house"), start=2):
            sz.add(run, classes=name)
            wait(served, number)
        over.set()
        for thread in threads:
            thread.join(60)
    assert wrong == []


@pytest.mark.parametrize("harm", [lambda text: text[:-40], lambda text: text.replace('"finished"', '"running"')])
def test_a_damaged_run_is_said_once_and_the_old_one_served_on(
    run: Path, image: bytes, harm: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    whole = (run / "run.json").read_text()
    with serving(run) as served:
        (run / "run.json").write_text(harm(whole))
        for _ in range(100):
            assert served.predict([("x", image)]).json["version"] == 1
            if "version 1 is served on" in caplog.text:
                break
        (run / "run.json").unlink()
        assert served.predict([("x", image)]).status == 200
    assert caplog.text.count("changed and cannot be served") == 1


def test_a_look_opens_nothing_while_nothing_changed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    present = Present.of(run)
    opened: list[Path] = []
    monkeypatch.setattr(sz.Run, "load", opened.append)
    before = present.labeller()
    assert [present.labeller() for _ in range(10)] == [before] * 10
    asyncio.run(present.close())
    assert opened == []


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browsing(tmp_path_factory.mktemp("profile")) as page:
        yield page


def test_an_open_page_says_that_there_is_another_version(profile: Any, run: Path, photos: Path) -> None:
    with serving(run) as served:
        profile.open(f"http://127.0.0.1:{served.port}/")
        assert profile.run("document.getElementById('newer').hidden")
        sz.add(run, classes="person")
        wait(served, 2)
        profile.choose("#files", photos / "cat" / "0.png")
        profile.wait_for("!document.getElementById('newer').hidden")
        profile.open(f"http://127.0.0.1:{served.port}/")
        assert "Version 2 of the run" in json.dumps(profile.run("document.body.innerText"))
