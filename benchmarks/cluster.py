"""Measure a cluster: without, with one and with two workers of one thread in turns; and many workers by simulation.

Part `encode` encodes images into an empty cache, part `cells` runs methods of `compare`, part `search` takes steps of
the search of `tune --head none`, whose text tower every process has built before. Each round does the work alone, with
one worker, and with two, one after the other; the workers are started before the clock. Each worker, and this process
when it works alone, is held to one core (where the system can).

Parts `simulate` and `simulate-search` have sleeping workers, many in one process: each piece takes as long as it would,
and its result is as large. The first hands out pieces of images and says which share of the time the workers slept, and
what a piece takes of the leader's processor. The second takes one step of a search with many classes as `tune` would,
from the time of a query and that of the leader's own part, and adds what the traffic takes at 1 Gbit/s. All share this
machine's cores.

usage: OPENBLAS_NUM_THREADS=1 python benchmarks/cluster.py encode|cells FOLDER --model m [--rounds 3] [--images 1024]
       OPENBLAS_NUM_THREADS=1 python benchmarks/cluster.py search DATASET --model m [--rounds 3] [--steps 6] [--shots 4]
       python benchmarks/cluster.py simulate [--workers 16] [--seconds 4] [--pieces 6] [--kilobytes 512]
       python benchmarks/cluster.py simulate-search [--workers 2 4 8] [--seconds 3.2] [--leader 1.2] [--kilobytes 2000]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import sharpzo_mlx as sz
from sharpzo_mlx.cluster.leader import Leader

PORT = 18796
GIGABIT = 125e6  # bytes a second
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
    """Return seconds of a comparison of four methods and five seeds, whose features are there already."""
    clip = sz.load(model)
    config = sz.TuneConfig(shots=16, query_budget=1000)

    def work() -> None:
        with tempfile.TemporaryDirectory() as output:
            found = sz.compare(clip, folder, config, methods=METHODS, seeds=5, output=Path(output) / "c")
            assert not found.failed

    with empty_cache():
        return time_turns(work, rounds)


def measure_search(folder: Path, model: Path, rounds: int, steps: int, shots: int) -> dict[str, list[float]]:
    """Return seconds of a generation of stage 1 and some steps of stage 2; the vectors found are the same each time."""
    from sharpzo_mlx.datasets.splits import draw_split
    from sharpzo_mlx.features.extract import encode
    from sharpzo_mlx.tuning.problem import make_problem
    from sharpzo_mlx.tuning.search import Search

    clip = sz.load(model)
    config = sz.TuneConfig(shots=shots, generations=1, steps=steps, head="none")
    split = draw_split(folder, shots=config.shots, seed=0)
    problem = make_problem(clip, encode(clip, split.train), encode(clip, split.val), config)
    print(f"K = {len(problem.class_names)}, {len(split.train)} training images", file=sys.stderr)
    found: set[bytes] = set()

    def work() -> None:
        search = Search(config, problem.objective, problem.validate)
        assert len(list(search.steps())) == 1 + steps
        found.add(bytes(memoryview(search.descent.w)))

    seconds = time_turns(work, rounds)
    assert len(found) == 1, "the searches found different vectors"
    return seconds


def summarise(found: dict[str, list[float]]) -> dict[str, float]:
    """Return the medians, the overhead of one worker beside none, and the gain of two beside one."""
    medians = {name: statistics.median(seconds) for name, seconds in found.items()}
    ratios = [one / two for one, two in zip(found["one"], found["two"], strict=True)]
    extra = [one / alone - 1 for one, alone in zip(found["one"], found["alone"], strict=True)]
    return {**medians, "overhead": statistics.median(extra), "gain": statistics.median(ratios)}


@contextmanager
def sleepers(workers: int) -> Iterator[Leader]:
    """Start a leader and so many workers that sleep."""
    address = f"127.0.0.1:{PORT}"
    command = [sys.executable, __file__, "sleepers", address, "--workers", str(workers)]
    logging.getLogger("sharpzo_mlx").setLevel(logging.ERROR)  # no line for each worker
    with sz.open_cluster(address) as leader, subprocess.Popen(command) as process:
        try:
            while leader.count < workers:
                time.sleep(0.2)
            yield leader
        finally:
            process.terminate()


def sleep_pieces(leader: Leader, seconds: Iterable[float], kilobytes: Iterable[int]) -> None:
    """Have workers sleep, and fetch results of these sizes."""
    from sharpzo_mlx.cluster.work import NO_MODEL, Nap

    naps = [Nap(one, 1024 * size) for one, size in zip(seconds, kilobytes, strict=True)]
    assert len(list(leader.perform("nap", naps, NO_MODEL))) == len(naps)


def simulate(workers: int, seconds: float, pieces: int, kilobytes: int) -> dict[str, float]:
    """Return the efficiency of sleeping workers and the leader's processor time a piece."""
    with sleepers(workers) as leader:
        count = workers * pieces
        began, busy = time.perf_counter(), time.process_time()
        sleep_pieces(leader, [seconds] * count, [kilobytes] * count)
        took, busy = time.perf_counter() - began, time.process_time() - busy
    return {
        "workers": workers,
        "seconds": took,
        "efficiency": seconds * pieces / took,
        "leader_ms": 1000 * busy / count,
    }


def simulate_search(workers: int, query: float, own: float, kilobytes: int) -> dict[str, float]:
    """Return what a step takes: its probes, its trials, the validation, and the leader's own part.

    Args:
        workers: how many.
        query: seconds of a query.
        own: seconds of a step's other work, which is the leader's.
        kilobytes: the class features of a candidate.
    """
    from sharpzo_mlx.objective.spreading import PIECES_EACH
    from sharpzo_mlx.optimisers.gauss_newton import RADII, GaussNewton
    from sharpzo_mlx.optimisers.params import GaussNewtonParams, PruningParams

    cost = GaussNewton(GaussNewtonParams(), PruningParams(), 1).step_cost(512)
    probes, trials = cost - len(RADII), len(RADII)
    with sleepers(workers) as leader:
        began = time.perf_counter()
        for count, size in ((probes, kilobytes), (trials, 0)):
            edges = [round(n) for n in np.linspace(0, count, min(count, PIECES_EACH * workers) + 1)]
            lengths = np.diff(edges).tolist()
            sleep_pieces(leader, [query * n for n in lengths], [size * n for n in lengths])
        time.sleep(own + query / 2)  # every other step is validated, here
        took = time.perf_counter() - began
    traffic = probes * kilobytes * 1024 / GIGABIT
    alone = (cost + 0.5) * query + own
    return {"workers": workers, "seconds": took, "traffic": traffic, "gain": alone / (took + traffic)}


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
    parser.add_argument("part", choices=("encode", "cells", "search", "simulate", "simulate-search", "sleepers"))
    parser.add_argument("place", nargs="?", help="a folder of images")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=6, help="of stage 2")
    parser.add_argument("--shots", type=int, default=16, help="training images of a class in the search")
    parser.add_argument("--workers", type=int, nargs="+", default=[16])
    parser.add_argument("--seconds", type=float, default=4.0, help="of a piece, or of a query")
    parser.add_argument("--leader", type=float, default=0.0, help="seconds of a step that are the leader's own")
    parser.add_argument("--pieces", type=int, default=6)
    parser.add_argument("--kilobytes", type=int, default=512)
    given = parser.parse_args()
    if given.part == "sleepers":
        asyncio.run(sleep_for(given.place, given.workers[0]))
    elif given.part == "simulate":
        for count in given.workers:
            print(json.dumps(simulate(count, given.seconds, given.pieces, given.kilobytes)), flush=True)
    elif given.part == "simulate-search":
        for count in given.workers:
            print(json.dumps(simulate_search(count, given.seconds, given.leader, given.kilobytes)), flush=True)
    elif given.part == "encode":
        print(json.dumps(summarise(measure_encode(Path(given.place), given.model, given.rounds, given.images))))
    elif given.part == "search":
        print(
            json.dumps(
                summarise(measure_search(Path(given.place), given.model, given.rounds, given.steps, given.shots))
            )
        )
    else:
        print(json.dumps(summarise(measure_cells(Path(given.place), given.model, given.rounds))))


if __name__ == "__main__":
    main()
