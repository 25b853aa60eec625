"""Measure how soon a worker works for a new leader, after the last one was killed while the worker did a long piece.

In each round a leader in a process of its own gives out a piece of a minute and is killed. Then the next one listens,
and the clock runs from there to its first answer. In every other round the worker had no piece when the leader was
killed.

usage: python benchmarks/cluster_restarts.py [--rounds 10]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

import sharpzo_mlx as sz
from sharpzo_mlx.cluster.work import NO_MODEL, Nap

PORT = 18797
ADDRESS = f"127.0.0.1:{PORT}"
WORKER = "from sharpzo_mlx.cli.main import main; main()"
LEADER = """
import sys, time
import sharpzo_mlx as sz
from sharpzo_mlx.cluster.work import NO_MODEL, Nap
with sz.open_cluster(sys.argv[1]) as leader:
    list(leader.perform("nap", [Nap(0.0, 0)], NO_MODEL))
    print("begun", flush=True)
    list(leader.perform("nap", [Nap(float(sys.argv[2]), 0)], NO_MODEL))
    time.sleep(60)
"""


def kill_a_leader(piece: float) -> None:
    """Let a leader give out a piece of so many seconds, and kill it two seconds later."""
    words = [sys.executable, "-c", LEADER, ADDRESS, str(piece)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as leader:
        assert leader.stdout is not None
        assert leader.stdout.readline() == b"begun\n"
        time.sleep(2.0)
        leader.kill()


def time_first_answer() -> float:
    """Return the seconds from the moment in which a new leader listens to its first answer."""
    with sz.open_cluster(ADDRESS) as leader:
        began = time.perf_counter()
        assert len(list(leader.perform("nap", [Nap(0.0, 0)], NO_MODEL))) == 1
        return time.perf_counter() - began


def main() -> None:
    """Read the command line, measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    found: dict[str, list[float]] = {"waiting": [], "working": []}
    with subprocess.Popen([sys.executable, "-c", WORKER, "worker", ADDRESS], stdout=subprocess.DEVNULL) as worker:
        try:
            for turn in range(rounds):
                kind = ("waiting", "working")[turn % 2]
                kill_a_leader(60.0 if kind == "working" else 0.0)
                found[kind].append(time_first_answer())
        finally:
            worker.terminate()
    print(json.dumps({kind: {"median": statistics.median(own), "most": max(own)} for kind, own in found.items()}))


if __name__ == "__main__":
    main()
