"""Workers that were started by hand are killed and started again, and so are leaders, in the middle of pieces."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cluster_workers import free_port, line_of, started

import sharpzo_mlx as sz
from sharpzo_mlx.cluster.work import NO_MODEL, Nap

LONG = 30.0  # seconds of a piece that nobody waits for
LEADER = """
import sys
import sharpzo_mlx as sz
from sharpzo_mlx.cluster.work import NO_MODEL, Nap
with sz.open_cluster(sys.argv[1]) as leader:
    print("listens", flush=True)
    list(leader.perform("nap", [Nap(float(sys.argv[2]), 0)], NO_MODEL))
"""


@contextmanager
def leading(address: str, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """A process that gives out one piece of so many seconds; it is killed at last."""
    words = [sys.executable, "-c", LEADER, address, str(seconds)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def in_a_long_piece(address: str) -> Iterator[tuple[subprocess.Popen[str], subprocess.Popen[str]]]:
    """A worker and its leader, while the worker does a long piece."""
    with started("worker", address) as worker, leading(address, LONG) as leader:
        line_of(worker, "works for")
        time.sleep(1.0)
        yield worker, leader


def test_a_worker_leaves_the_piece_of_a_leader_that_was_killed() -> None:
    address = f"127.0.0.1:{free_port()}"
    with in_a_long_piece(address) as (worker, leader):
        leader.kill()
        line_of(worker, "begins anew")
        began = time.monotonic()
        with sz.open_cluster(address) as second:
            assert dict(second.perform("nap", [Nap(0.0, 3)], NO_MODEL)) == {0: bytes(3)}
        assert time.monotonic() - began < LONG / 2
        line_of(worker, "works for")  # the same process, which waits for the next one
        assert worker.poll() is None


@pytest.mark.parametrize("options", [(), ("--once",)])
def test_a_worker_ends_in_a_piece_that_nobody_waits_for(options: tuple[str, ...]) -> None:
    address = f"127.0.0.1:{free_port()}"
    with started("worker", address, *options) as worker, leading(address, LONG) as leader:
        line_of(worker, "works for")
        time.sleep(1.0)
        if options:
            leader.kill()
        else:
            worker.send_signal(signal.SIGINT)
        rest, _ = worker.communicate(timeout=LONG / 2)
        assert worker.returncode == (0 if options else 130)
        assert "Traceback" not in rest
        assert ("error: interrupted" in rest) == (not options)


def test_workers_started_by_hand_are_killed_and_started_again() -> None:
    address = f"127.0.0.1:{free_port()}"
    found: list[int] = []

    def restart() -> None:
        for _ in range(2):
            with started("worker", address) as worker:
                line_of(worker, "works for")
                time.sleep(1.0)  # in which it does pieces
                worker.kill()

    with sz.open_cluster(address) as leader, started("worker", address) as steady:
        line_of(steady, "works for")
        thread = threading.Thread(target=restart)
        thread.start()
        for number, result in leader.perform("nap", [Nap(0.1, number) for number in range(100)], NO_MODEL):
            assert result == bytes(number)
            found.append(number)
        thread.join()
    assert sorted(found) == list(range(100))  # each once


def tune(model: Path, photos: Path, output: Path, *options: str) -> list[str]:
    """The command of a tuning whose search takes seconds."""
    words = ["tune", photos, "--model", model, "--head", "none", "--shots", "4", "--steps", "150", "--no-report"]
    return [str(word) for word in (*words, "--set", "space.dimension=8", "--output", output, *options)]


def wait_for_steps(output: Path, count: int) -> None:
    """Wait until a run has made some steps."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        path = output / "steps.jsonl"
        if path.is_file() and path.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.02)
    raise AssertionError("no step was made")


def test_a_tuning_whose_leader_is_killed_goes_on_with_the_same_worker(
    tiny_model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    address = f"127.0.0.1:{free_port()}"
    with started(*tune(tiny_model, photos, tmp_path / "alone")) as alone:
        assert alone.wait(60) == 0
    monkeypatch.setenv("SHARPZO_MLX_CACHE", str(tmp_path / "cache"))
    helped = tmp_path / "helped"
    with started("worker", address, "--model", tiny_model) as worker:
        with started(*tune(tiny_model, photos, helped, "--cluster", address)) as first:
            line_of(worker, "works for")
            wait_for_steps(helped, 5)
            assert first.poll() is None, "the search ended before it was killed"
            first.kill()
            first.wait()
        line_of(worker, "waits for a leader")
        with started(*tune(tiny_model, photos, helped, "--cluster", address, "--resume")) as second:
            line_of(worker, "works for")
            assert second.wait(60) == 0
    assert (helped / "prompt.safetensors").read_bytes() == (tmp_path / "alone" / "prompt.safetensors").read_bytes()
