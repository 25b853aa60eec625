"""A cluster of two processes gives the results of one, to the last bit, also when workers are lost."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cluster_workers import free_port, same, two_workers
from comparison_runs import CONFIG
from PIL import Image

import sharpzo_mlx as sz
from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.cluster.leader import Leader
from sharpzo_mlx.cluster.opening import open_cluster
from sharpzo_mlx.cluster.work import NO_MODEL, Nap
from sharpzo_mlx.comparison.results import MethodResult
from sharpzo_mlx.datasets.folder import read_folder
from sharpzo_mlx.features.extract import encode
from sharpzo_mlx.features.views import encode_views
from sharpzo_mlx.objective import spreading
from sharpzo_mlx.runtime.helpers import helped_by


@pytest.fixture(scope="module")
def leader() -> Iterator[Leader]:
    """Two workers of one thread each, for all tests of this file."""
    with two_workers() as found:
        yield found


@pytest.fixture
def new_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """Return what gives the test an empty cache."""
    count = iter(range(100))
    return lambda: monkeypatch.setenv("SHARPZO_MLX_CACHE", str(tmp_path / f"cache-{next(count)}"))


def with_damage(photos: Path, tmp_path: Path) -> Path:
    """Return a copy of the photos with a damaged file and a copy of a file among them."""
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    (folder / "dog" / "3.png").write_bytes((folder / "dog" / "3.png").read_bytes()[:60])
    shutil.copy(folder / "cat" / "1.png", folder / "dog" / "7 copy.png")
    return folder


def test_images_and_views_have_the_same_bits(
    leader: Leader, tiny_model: Path, photos: Path, tmp_path: Path, new_cache: Callable[[], None]
) -> None:
    clip, images = sz.load(tiny_model), read_folder(with_damage(photos, tmp_path))
    alone = encode(clip, images)
    views = encode_views(clip, alone, views=3)
    new_cache()
    with helped_by(leader):
        helped = encode(clip, images)
        assert same(alone, helped)
        np.testing.assert_array_equal(np.array(encode_views(clip, helped, views=3)), np.array(views))
    assert len(alone.skipped) == 1
    assert same(alone, encode(clip, images))  # from the one cache


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="only Linux has such a name")
def test_files_that_workers_do_not_see_are_sent(
    leader: Leader, tiny_model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, new_cache: Callable[[], None]
) -> None:
    clip, images = sz.load(tiny_model), read_folder(photos)
    alone = encode(clip, images)
    new_cache()
    monkeypatch.chdir(photos)
    here = read_folder(Path("/proc/self/cwd"))  # which is another folder in every process
    with helped_by(leader):
        helped = encode(clip, here)
    np.testing.assert_array_equal(np.array(alone.embeddings), np.array(helped.embeddings))


def test_predictions_and_reports_are_the_same(
    leader: Leader, finished_run: Path, photos: Path, tmp_path: Path, new_cache: Callable[[], None]
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    alone = sz.predict(finished_run, [photos / "cat", photos / "dog"], top=3)
    report = sz.evaluate(run, photos)
    new_cache()
    with helped_by(leader):
        assert sz.predict(finished_run, [photos / "cat", photos / "dog"], top=3) == alone
        helped = sz.evaluate(run, photos)
    assert helped.folders[0].tuned_metrics == report.folders[0].tuned_metrics


def test_a_tuning_is_the_same(
    leader: Leader, tiny_model: Path, photos: Path, tmp_path: Path, new_cache: Callable[[], None]
) -> None:
    config = sz.TuneConfig(shots=4, steps=3).with_settings({"space.dimension": 8})
    alone = sz.tune(sz.load(tiny_model), photos, config, output=tmp_path / "alone", report=False)
    new_cache()
    with helped_by(leader):
        helped = sz.tune(sz.load(tiny_model), photos, config, output=tmp_path / "helped", report=False)
    assert (helped.folder / "prompt.safetensors").read_bytes() == (alone.folder / "prompt.safetensors").read_bytes()
    assert helped.results.queries == alone.results.queries


def measured(results: Sequence[MethodResult]) -> list[Any]:
    """What must be equal of results: all but time and memory."""
    found = []
    for result in results:
        assert result.measurements is not None, result.error
        content = result.to_json()
        for timed in (content["measurements"], content["measurements"]["curve"]):
            timed.pop("seconds")
            timed.pop("peak_memory_mb", None)
        found.append(content)
    return found


METHODS = "bbt,zo,ncm,gda,blackvip"


def compared(clip: Clip, photos: Path, output: Path) -> list[Any]:
    """The results of a short comparison."""
    found = sz.compare(clip, photos, CONFIG, methods=METHODS, seeds=2, output=output)
    return measured(found.datasets[0].results)


def test_cells_of_a_comparison_are_the_same(
    leader: Leader, tiny_model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = compared(sz.load(tiny_model), photos, tmp_path / "alone")
    with helped_by(leader):
        assert compared(sz.load(tiny_model), photos, tmp_path / "helped") == alone
        monkeypatch.setattr(Leader, "perform", None)  # all is there: nothing is given out again
        monkeypatch.setattr(Leader, "perform", lambda *_: iter(()))
        assert compared(sz.load(tiny_model), photos, tmp_path / "helped") == alone


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="only Linux has such a name")
def test_methods_that_read_images_run_here_where_workers_see_none(
    leader: Leader, tiny_model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    with helped_by(leader):
        found = sz.compare(
            sz.load(tiny_model), "/proc/self/cwd", CONFIG, methods="blackvip", seeds=1, output=tmp_path / "c"
        )
    assert not found.failed


def kill_some(leader: Leader, done: threading.Event, killed: list[int], seed: int) -> None:
    """Kill workers at random moments until the work is done."""
    rng = np.random.default_rng(seed)
    while not done.wait(rng.uniform(0.1, 1.5)):
        pid = int(rng.choice(leader.pids))
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        killed.append(pid)
        done.wait(6.0)  # until the next one is there


def test_killed_workers_change_nothing(leader: Leader) -> None:
    done, killed = threading.Event(), list[int]()
    thread = threading.Thread(target=kill_some, args=(leader, done, killed, 7))
    thread.start()
    try:
        found = list(leader.perform("nap", [Nap(0.2, number) for number in range(60)], NO_MODEL))
    finally:
        done.set()
        thread.join()
    assert killed
    assert sorted(number for number, _ in found) == list(range(60))  # each once
    assert all(result == bytes(number) for number, result in found)


def paint(folder: Path, classes: int, each: int) -> Path:
    """Make images of one colour each, in many classes."""
    for label in range(classes):
        (folder / f"thing {label}").mkdir(parents=True)
        for number in range(each):
            Image.new("RGB", (4, 4), (label, 40 * number, 99)).save(folder / f"thing {label}" / f"{number}.png")
    return folder


def test_a_search_is_the_same_though_workers_are_killed(
    leader: Leader, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = paint(tmp_path / "photos", 80, 3)
    config = sz.TuneConfig(shots=1, steps=40, generations=2, head="none").with_settings({"space.dimension": 24})
    alone = sz.tune(sz.load(tiny_model), photos, config, output=tmp_path / "alone", report=False)
    monkeypatch.setattr(spreading, "WORTH_SENDING", 0)
    done, killed, works, plain = threading.Event(), list[int](), list[str](), leader.perform

    def noted(work: str, *given: Any) -> Iterator[tuple[int, Any]]:
        works.append(work)
        return plain(work, *given)

    monkeypatch.setattr(leader, "perform", noted)
    thread = threading.Thread(target=kill_some, args=(leader, done, killed, 3))
    thread.start()
    try:
        with helped_by(leader):
            helped = sz.tune(sz.load(tiny_model), photos, config, output=tmp_path / "helped", report=False)
    finally:
        done.set()
        thread.join()
    assert killed
    assert works.count("candidates") >= 40
    assert (helped.folder / "prompt.safetensors").read_bytes() == (alone.folder / "prompt.safetensors").read_bytes()
    assert helped.results.queries == alone.results.queries


def test_a_piece_on_a_worker_that_hangs_is_given_to_another(leader: Leader) -> None:
    list(leader.perform("nap", [Nap(0.05, 0)] * 8, NO_MODEL))
    pid = leader.pids[0]
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert len(list(leader.perform("nap", [Nap(0.05, 0)] * 8, NO_MODEL))) == 8
        assert time.monotonic() - began < 25
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_piece_that_fails_everywhere_ends_the_work_in_one_line(leader: Leader) -> None:
    with pytest.raises(sz.UserError, match=r"worker .*: ValueError"):
        list(leader.perform("nap", [Nap(-1.0, 0)], NO_MODEL))


def test_strangers_are_not_let_in(leader: Leader) -> None:
    import asyncio

    from distributed.core import rpc
    from distributed.security import Security

    async def ask(address: str, security: Security, **message: Any) -> Any:
        async with rpc(address, connection_args=security.get_connection_args("client"), timeout=5) as other:
            name = message.pop("name")
            return await getattr(other, name)(**message)

    with pytest.raises(Exception, match=r"before comm was established|(?i:ssl|certificate)"):
        asyncio.run(ask(leader.url, Security.temporary(), name="identity"))
    with pytest.raises(Exception, match=r"before comm was established|(?i:closed|timed out)"):
        asyncio.run(ask(leader.url.replace("tls", "tcp"), Security(), name="identity"))


def test_a_holder_of_the_certificate_can_run_no_code_of_its_own(tmp_path: Path) -> None:
    import asyncio

    from distributed.core import rpc

    never = tmp_path / "never"

    async def attack(address: str) -> None:
        async with rpc(address, timeout=5) as other:
            for name in ("run_function", "register_worker_plugin", "dump_cluster_state_to_url", "broadcast"):
                assert await getattr(other, name)(function=pickle.dumps(Spy(never))) is None  # not answered
            with pytest.raises(Exception, match=r"^|."):  # dask cannot even send the refusal's traceback
                await other.scatter(data=Spy(never))

    with open_cluster(f"127.0.0.1:{free_port()}") as found:
        asyncio.run(attack(found.url))
        assert not never.exists()


class Spy:
    """An object whose pickle would leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.path),)
