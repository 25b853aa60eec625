"""Kill workers and leaders of a cluster at random moments: the result must be that of commands nobody disturbed.

Commands are `encode`, `tune`, `tune --head none` (disturbed in its search) and `compare` with `--cluster local:2`. Half
of the kills hit a worker, after which the command must end by itself; half hit the leader, after which no worker may be
left, and the same command must go on.

usage: python tests/cluster_kills.py --count 30 --seed 1 [--only search]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]
import sharpzo_mlx  # noqa: E402, F401, I001  (before MLX)
from painted_data import save_random_clip  # noqa: E402

PATIENCE = 120
START = 1.5  # seconds before which there is nothing to kill
BUSY = 0.9  # part of the time of an undisturbed command in which kills fall
COMMANDS = {
    "encode": ("encode", "PHOTOS", "--model", "MODEL"),
    "tune": (
        *("tune", "PHOTOS", "--model", "MODEL", "--shots", "8", "--steps", "6", "--set", "space.dimension=8"),
        *("--output", "OUT", "--resume", "--no-report"),
    ),
    "search": (
        *("tune", "PHOTOS", "--model", "MODEL", "--shots", "8", "--head", "none", "--generations", "60"),
        *("--steps", "400", "--set", "space.dimension=8", "--output", "OUT", "--resume", "--no-report"),
    ),
    "compare": (
        *("compare", "PHOTOS", "--model", "MODEL", "--methods", "bbt,zo,gda", "--seeds", "2"),
        *("--query-budget", "400", "--output", "OUT"),
    ),
}


def paint(folder: Path) -> None:
    """Paint three classes of a hundred images."""
    rng = np.random.default_rng(0)
    for name, colour in (("cat", (200, 60, 40)), ("dog", (40, 180, 70)), ("owl", (50, 60, 220))):
        (folder / name).mkdir(parents=True)
        for number in range(100):
            noise = rng.integers(-60, 60, (200, 260, 3))
            picture = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(picture).save(folder / name / f"{number}.png")


@dataclass(frozen=True)
class Whole:
    """An undisturbed command: its result, its steps if it is a search, and its seconds after the start."""

    result: Any
    steps: int
    seconds: float


class Room:
    """A folder for one run of a command, with a cache of its own."""

    def __init__(self, work: Path, name: str, command: str) -> None:
        self.folder, self.command = work / name, command
        self.folder.mkdir()
        places = {"PHOTOS": work / "photos", "MODEL": work / "model", "OUT": self.folder / "out"}
        self.words = [str(places.get(word, word)) for word in COMMANDS[command]]

    def start(self) -> subprocess.Popen[bytes]:
        """Start the command."""
        variables = {**os.environ, "SHARPZO_MLX_CACHE": str(self.folder / "cache"), "OPENBLAS_NUM_THREADS": "1"}
        variables |= {"PYTHONPATH": str(ROOT)}
        code = "import sharpzo_mlx.objective.spreading as spreading; spreading.WORTH_SENDING = 0\n"  # small batches too
        code += "from sharpzo_mlx.cli.main import main; main()"
        words = [sys.executable, "-c", code, *self.words, "--cluster", "local:2"]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(words, stdout=log, stderr=log)

    def steps(self) -> int:
        """Return how many steps of a search are on disk."""
        path = self.folder / "out" / "steps.jsonl"
        return path.read_bytes().count(b"\n") if path.is_file() else 0

    def wait(self, process: subprocess.Popen[bytes], part: float, whole: Whole) -> None:
        """Wait until a part of the work is done: in `search` by its steps, else by the clock."""
        if self.command != "search":
            time.sleep(START + part * whole.seconds)
            return
        while process.poll() is None and self.steps() < 1 + part * whole.steps:
            time.sleep(0.01)

    def result(self) -> Any:
        """Return what the command has made, without times."""
        rows: dict[bytes, bytes] = {}
        for path in (self.folder / "cache" / "features").glob("*.sqlite"):
            with sqlite3.connect(path) as cache:
                assert cache.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                rows |= dict(cache.execute("SELECT digest, feature FROM features"))
        if self.command in ("tune", "search"):
            steps = json.loads((self.folder / "out" / "run.json").read_text())["results"]["queries"]
            return rows, steps, (self.folder / "out" / "prompt.safetensors").read_bytes()
        if self.command == "compare":
            found = [json.loads(path.read_text()) for path in sorted((self.folder / "out" / "results").glob("*.json"))]
            for one in found:
                for timed in (one["measurements"], one["measurements"]["curve"]):
                    timed.pop("seconds")
                    timed.pop("peak_memory_mb", None)
            return rows, found
        return rows


def run_whole(work: Path, command: str) -> Whole:
    """Run a command that nobody disturbs."""
    room, began = Room(work, f"whole-{command}", command), time.monotonic()
    assert room.start().wait(PATIENCE) == 0, (room.folder / "log").read_text()[-2000:]
    return Whole(room.result(), room.steps(), max(0.0, time.monotonic() - began - START))


def disturb(room: Room, generator: random.Random, whole: Whole) -> str:
    """Run a command, kill at a random moment, and run it again if need be; return what was killed.

    Raises:
        AssertionError: it did not end as it should.
    """
    process = room.start()
    room.wait(process, generator.uniform(0.0, BUSY), whole)
    hit = generator.choice(("worker", "leader"))
    try:
        workers = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        workers = []
    if process.poll() is not None or (hit == "worker" and not workers):
        hit = "nothing"
    elif hit == "worker":
        generator.choice(workers).kill()
    else:
        process.kill()
        process.wait()
        _, alive = psutil.wait_procs(workers, timeout=20)
        assert not alive, "workers were left behind"
        process = room.start()
    assert process.wait(PATIENCE) == 0, (room.folder / "log").read_text()[-2000:]
    return hit


def main() -> int:
    """Read the command line, kill, and return 1 if a result differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    given = parser.parse_args()
    generator, hits, wrong = random.Random(given.seed), Counter[str](), 0
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        paint(work / "photos")
        save_random_clip(work / "model")
        expected = {command: run_whole(work, command) for command in given.only}
        for case in range(given.count):
            command = given.only[case % len(given.only)]
            room = Room(work, f"{case}", command)
            hit = disturb(room, generator, expected[command])
            same = room.result() == expected[command].result
            wrong += not same
            hits[f"{command}: {hit}"] += 1
            print(f"{case + 1}: {command}, {hit} was killed, {'same bits' if same else 'ANOTHER RESULT'}", flush=True)
    print(f"{given.count} cases, {wrong} with another result; {dict(hits)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
