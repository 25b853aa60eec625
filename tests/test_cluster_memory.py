"""A worker without memory says so and leaves if need be; pieces that lose their workers end in one line."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cluster_workers import free_port, line_of, started

import sharpzo_mlx as sz
from sharpzo_mlx.cluster.roll import MOST_LINES, Roll
from sharpzo_mlx.cluster.settings import SETTINGS
from sharpzo_mlx.cluster.work import NO_MODEL, Nap
from sharpzo_mlx.cluster.worker_memory import PATIENCE, MemoryWatch
from sharpzo_mlx.runtime.memory import physical
from sharpzo_mlx.runtime.threads import SHARERS

FULL = "takes no further piece"


def test_a_worker_without_memory_leaves_and_the_others_do_its_pieces(caplog: pytest.LogCaptureFixture) -> None:
    address = f"127.0.0.1:{free_port()}"
    with sz.open_cluster(address) as leader, started("worker", address, "--memory-limit", "60MB") as small:
        assert FULL in line_of(small, "until it uses less than 51 MB")
        with started("worker", address) as large:
            line_of(large, "works for")
            found = dict(leader.perform("nap", [Nap(0.3, number) for number in range(20)], NO_MODEL))
            assert found == {number: bytes(number) for number in range(20)}
            assert "larger --memory-limit" in line_of(small, "error: without work it uses")
            assert small.wait(20) == 2
    lines = Counter(record.getMessage().partition(": ")[2][:30] for record in caplog.records)
    assert lines["it uses nearly all of the 60 MB"[:30]] == 1
    assert "has gone, its pieces go to others: 1 worker left" in caplog.text
    assert "has come: 2 workers" in caplog.text


def test_workers_of_this_machine_without_memory_end_the_command_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(SHARERS, f"{physical() // 50_000_000}")  # a part of 50 MB for each
    with (
        sz.open_cluster("local:1") as leader,
        pytest.raises(sz.UserError, match="cannot work; its reason stands above"),
    ):
        list(leader.perform("nap", [Nap(0.3, 0)] * 9, NO_MODEL))
    assert "error: a worker: without work it uses" in capfd.readouterr().err


class Paused:
    """What a watch sees of a worker of dask."""

    memory_manager = SimpleNamespace(memory_limit=1_000_000, memory_pause_fraction=0.85)
    monitor = SimpleNamespace(get_process_memory=lambda: 900_000)

    def __init__(self) -> None:
        self.status = SimpleNamespace(name="paused")
        self.state = SimpleNamespace(executing_count=1)
        self.data: dict[str, Any] = {}


def test_a_worker_leaves_only_if_its_memory_stays_full_without_work() -> None:
    worker, lines, now = Paused(), list[str](), [0.0]
    watch = MemoryWatch(worker, lines.append, lambda: now[0])

    def look_after(seconds: float) -> str:
        now[0] += seconds
        return watch.look()

    assert look_after(0) == look_after(2 * PATIENCE) == ""  # it does a piece
    worker.state.executing_count, worker.data = 0, {"piece": b"result"}
    assert look_after(2 * PATIENCE) == ""  # the leader fetches its result
    worker.data = {}
    assert look_after(0) == look_after(PATIENCE / 2) == ""
    worker.status.name = "running"
    assert look_after(2 * PATIENCE) == ""
    worker.status.name = "paused"
    assert look_after(0) == look_after(PATIENCE / 2) == ""  # patience begins anew
    assert "900 kB of the 1 MB" in look_after(PATIENCE)
    assert lines == ["takes no further piece until it uses less than 850 kB of memory"]  # once


def test_a_piece_that_loses_every_worker_ends_the_work_in_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(SETTINGS, "distributed.scheduler.allowed-failures", 0)
    with sz.open_cluster("local:1") as leader:
        list(leader.perform("nap", [Nap(0.0, 0)], NO_MODEL))
        timer = threading.Timer(1.0, lambda: os.kill(leader.pids[0], signal.SIGKILL))
        timer.start()
        with pytest.raises(sz.UserError, match="lost its worker 1 times; if memory was short"):
            list(leader.perform("nap", [Nap(30.0, 0)], NO_MODEL))
        timer.join()
    assert "has gone" in caplog.text
    assert "has come" not in caplog.text  # it was started here


def test_a_worker_of_this_machine_that_is_killed_is_replaced_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    with sz.open_cluster("local:1") as leader:
        for _ in range(2):
            list(leader.perform("nap", [Nap(0.0, 0)], NO_MODEL))
            os.kill(leader.pids[0], signal.SIGKILL)
            time.sleep(0.3)
        assert len(list(leader.perform("nap", [Nap(0.0, 0)], NO_MODEL))) == 1
    assert caplog.text.count("name fewer than local:1") == 1
    assert caplog.text.count("no worker left") == 2


def test_a_lost_worker_is_replaced_while_the_others_answer_quickly() -> None:
    with sz.open_cluster("local:2") as leader:
        assert len(list(leader.perform("nap", [Nap(0.5, 0)] * 4, NO_MODEL))) == 4
        lost = leader.pids[0]
        os.kill(lost, signal.SIGKILL)
        assert len(list(leader.perform("nap", [Nap(0.05, 0)] * 40, NO_MODEL))) == 40
        assert lost not in leader.pids


def test_a_worker_that_comes_and_goes_for_ever_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    roll = Roll(announce=True)
    for _ in range(MOST_LINES):
        roll.came("one", 1)
        roll.left("one", 0)
    assert len(caplog.records) == MOST_LINES
    assert caplog.messages[0] == "worker one has come: 1 worker"
    assert "no more lines" in caplog.messages[-1]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="memory of a Mac's process is counted in another way")
def test_results_that_fill_the_memory_pause_a_worker_which_then_goes_on() -> None:
    address = f"127.0.0.1:{free_port()}"
    with sz.open_cluster(address) as leader, started("worker", address, "--memory-limit", "400MB"):
        sizes = [result for _, result in leader.perform("nap", [Nap(0.2, 120_000_000)] * 3, NO_MODEL)]
    assert [len(one) for one in sizes] == [120_000_000] * 3
