"""Measure a cluster: without, with one and with two workers of one thread in turns; and many workers by simulation.

Part `encode` encodes images into an empty cache, part `cells` runs methods of `compare`. Each round does the work
alone, with one worker, and with two, one after the other; the workers are started before the clock. Part `simulate` has
sleeping workers, many in one process: each piece takes as long as it would, and its result is as large. It says which
share of the time they slept, and what a piece takes of the leader's processor. All share this machine's cores.

Each worker, and this process when it works alone, is held to one core (where the system can).

usage: OPENBLAS_NUM_THREADS=1 python benchmarks/cluster.py encode|cells FOLDER --model m [--rounds 3] [--images 1024]
       python benchmarks/cluster.py simulate [--workers 16] [--seconds 4] [--pieces 6] [--kilobytes 512]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import sharpzo_mlx as sz

PORT = 18796
EVERY_CORE = set(range(os.cpu_count() or 1))
METHODS = "bbt,zo,sharpzo,sam-cma"


def hold(pid: int, cores: set[int]) -> None:
    """Hold all threads of a process to some cores."""
    if hasattr(os, "sched_setaffinity"):
        for thread in Path(f"/proc/{pid or os.getpid()}/task").iterdir():
            os.sched_setaffinity(int(thread.name), cores)


def time_turns(work: Callable[[], None], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of the work alone, with one worker and with two, in turns."""
    from sharpzo_mlx.runtime.helpers import helped_by

    found: dict[str, list[float]] = {"alone": [], "one": [], "two": []}
    with sz.open_cluster("local:1") as one, sz.open_cluster("local:2") as two:
        settings = {"alone": None, "one": one, "two": two}
        for leader in (one, two):
            for core, pid in enumerate(leader.pids):
                hold(pid, {core})
        for turn in range(-1, rounds):  # the first turn reads weights
            for name, helpers in settings.items():
                hold(0, {0} if helpers is None else EVERY_CORE)
                with helped_by(helpers):
                    began = time.perf_counter()
                    work()
                    if turn >= 0:
                        found[name].append(time.perf_counter() - began)
    return found


@contextmanager
def empty_cache() -> Iterator[None]:
    """Give the block a cache of its own."""
    before = os.environ.get("SHARPZO_MLX_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SHARPZO_MLX_CACHE"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["SHARPZO_MLX_CACHE"]
            else:
                os.environ["SHARPZO_MLX_CACHE"] = before


def measure_encode(folder: Path, model: Path, rounds: int, images: int) -> dict[str, list[float]]:
    """Return seconds of encoding images into an empty cache."""
    from sharpzo_mlx.datasets.listing import ImageListing

    clip = sz.load(model)
    paths = [path for path, _ in zip(ImageListing([folder], recursive=True), range(images), strict=False)]

    def work() -> None:
        with empty_cache():
            assert sz.fill_cache(clip, paths).encoded

    return time_turns(work, rounds)


def measure_cells(folder: Path, model: Path, rounds: int) -> dict[str, list[float]]:
    """Return seconds of a comparison of four methods and two seeds, whose features are there already."""
    clip = sz.load(model)
    config = sz.TuneConfig(shots=16, query_budget=1000)

    def work() -> None:
        with tempfile.TemporaryDirectory() as output:
            found = sz.compare(clip, folder, config, methods=METHODS, seeds=2, output=Path(output) / "c")
            assert not found.failed

    with empty_cache():
        return time_turns(work, rounds)


def summarise(found: dict[str, list[float]]) -> dict[str, float]:
    """Return the medians, the overhead of one worker beside none, and the gain of two beside one."""
    medians = {name: statistics.median(seconds) for name, seconds in found.items()}
    ratios = [one / two for one, two in zip(found["one"], found["two"], strict=True)]
    extra = [one / alone - 1 for one, alone in zip(found["one"], found["alone"], strict=True)]
    return {**medians, "overhead": statistics.median(extra), "gain": statistics.median(ratios)}


def simulate(workers: int, seconds: float, pieces: int, kilobytes: int) -> dict[str, float]:
    """Return the efficiency of sleeping workers and the leader's processor time a piece."""
    from sharpzo_mlx.cluster.work import NO_MODEL, Nap

    address = f"127.0.0.1:{PORT}"
    command = [sys.executable, __file__, "sleepers", address, "--workers", str(workers)]
    with sz.open_cluster(address) as leader, subprocess.Popen(command) as sleepers:
        try:
            while leader.count < workers:
                time.sleep(0.2)
            count = workers * pieces
            began, busy = time.perf_counter(), time.process_time()
            naps = (Nap(seconds, 1024 * kilobytes) for _ in range(count))
            assert len(list(leader.perform("nap", naps, NO_MODEL))) == count
            took, busy = time.perf_counter() - began, time.process_time() - busy
        finally:
            sleepers.terminate()
    return {
        "workers": workers,
        "seconds": took,
        "efficiency": seconds * pieces / took,
        "leader_ms": 1000 * busy / count,
    }


async def sleep_for(address: str, workers: int) -> None:
    """Be many workers in one process, until the leader goes."""
    from sharpzo_mlx.cluster import passport
    from sharpzo_mlx.cluster.servers import GREETING, PieceWorker, be_quiet
    from sharpzo_mlx.cluster.work import Models, Workplace, become

    from distributed.core import rpc  # isort: skip

    be_quiet()
    become(Workplace("sleeper", Models([])))
    started = []
    async with rpc(f"tcp://{address}") as leader:
        for number in range(workers):
            answer = await getattr(leader, GREETING)(name=f"sleeper-{number}", shown=passport.issue())
            pool = ThreadPoolExecutor(1)
            options = {"name": answer["ticket"], "host": "127.0.0.1", "nthreads": 1, "executor": pool}
            started.append(await PieceWorker(f"tcp://{address}", memory_limit=0, **options))
    await asyncio.gather(*(worker.finished() for worker in started))


def main() -> None:
    """Read the command line, measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("encode", "cells", "simulate", "sleepers"))
    parser.add_argument("place", nargs="?", help="a folder of images")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--pieces", type=int, default=6)
    parser.add_argument("--kilobytes", type=int, default=512)
    given = parser.parse_args()
    if given.part == "sleepers":
        asyncio.run(sleep_for(given.place, given.workers))
    elif given.part == "simulate":
        print(json.dumps(simulate(given.workers, given.seconds, given.pieces, given.kilobytes)))
    elif given.part == "encode":
        print(json.dumps(summarise(measure_encode(Path(given.place), given.model, given.rounds, given.images))))
    else:
        print(json.dumps(summarise(measure_cells(Path(given.place), given.model, given.rounds))))


if __name__ == "__main__":
    main()
