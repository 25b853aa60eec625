"""Measure how long a user waits for the help, the import, and the first step of a tuning.

Each is timed from the start of a fresh process, several times; the fastest and the median count. The tuning has its
image features in the cache, so what is timed is Python, reading the model and the files' digests, and one generation.

usage: python benchmarks/startup.py [--model m --dataset FOLDER] [--rounds 7] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sharpzo_mlx.demo import MODEL_FOLDER, Amounts
from sharpzo_mlx.demo.render import DATASET, render

TESTBED = Path(__file__).resolve().parents[2] / "shared" / "testbed" / "pacs" / "photo"
HELP = "from sharpzo_mlx.cli.main import run; run(['--help'])"
FIRST_STEP = """
import sys
import sharpzo_mlx as sz
from sharpzo_mlx.tuning.search import TuneStep
for event in sz.tune_steps(sz.load(sys.argv[1]), sys.argv[2], output=sys.argv[3]):
    if isinstance(event, TuneStep):
        print("first", flush=True)
        break
"""
TARGETS = {"--help": 0.3, "import sharpzo_mlx": 0.5, "first step of tune": 2.0}


def seconds(code: str, *words: str) -> float:
    """Return the seconds from the start of a process that runs this code to its first line, or to its end."""
    start = time.perf_counter()
    command = [sys.executable, "-c", code, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()
        spent = time.perf_counter() - start
        process.stdout.read()
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {code}")
    return spent


def first_step(model: Path, dataset: Path) -> float:
    """Run the first step of a new run; the features are in the cache already."""
    with tempfile.TemporaryDirectory() as scratch:
        return seconds(FIRST_STEP, str(model), str(dataset), f"{scratch}/run")


def measure(model: Path, dataset: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Return the fastest and the median of every kind."""
    work = {
        "python alone": lambda: seconds("pass"),
        "--help": lambda: seconds(HELP),
        "import sharpzo_mlx": lambda: seconds("import sharpzo_mlx"),
        "first step of tune": lambda: first_step(model, dataset),
    }
    first_step(model, dataset)  # encodes what is not in the cache
    found = {}
    for name, run in work.items():
        spent = [run() for _ in range(rounds)]
        found[name] = {"fastest": min(spent), "median": statistics.median(spent)}
    return found


def main() -> None:
    """Print the seconds beside their limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a converted model folder; without it the demonstration's")
    parser.add_argument("--dataset", type=Path, help="with --model; otherwise the testbed's pacs/photo")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["SHARPZO_MLX_CACHE"] = f"{scratch}/cache"
        dataset = given.dataset or TESTBED
        if given.model is None:
            for _ in render(Path(scratch) / "images", amounts=Amounts(16, 4, 1, 1)):
                pass
            dataset = Path(scratch) / "images" / DATASET
        found = measure(given.model or MODEL_FOLDER, dataset, given.rounds)
    print("| | fastest s | median s | target s |\n|---|---|---|---|")
    for name, row in found.items():
        print(f"| {name} | {row['fastest']:.2f} | {row['median']:.2f} | {TARGETS.get(name, '')} |")
    if given.output:
        given.output.write_text(json.dumps(found, indent=4) + "\n")


if __name__ == "__main__":
    main()
