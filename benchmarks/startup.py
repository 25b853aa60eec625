"""Measure how long a user waits for the help, for the import, and for the first step of a tuning.

Each is timed several times from the start of a new process; the table shows the fastest and the median. The image
features are cached, so that the time covers Python, reading the model and the files' digests, and one generation.

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


def time_process(code: str, *words: str) -> float:
    """Measure the seconds from the start of a process with this code to its first line of output, or to its end."""
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


def time_first_step(model: Path, dataset: Path) -> float:
    """Measure the seconds to the first step of a new run with cached features."""
    with tempfile.TemporaryDirectory() as scratch:
        return time_process(FIRST_STEP, str(model), str(dataset), f"{scratch}/run")


def measure(model: Path, dataset: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Return the fastest and the median time of each kind."""
    work = {
        "python alone": lambda: time_process("pass"),
        "--help": lambda: time_process(HELP),
        "import sharpzo_mlx": lambda: time_process("import sharpzo_mlx"),
        "first step of tune": lambda: time_first_step(model, dataset),
    }
    time_first_step(model, dataset)  # encodes the images that are not in the cache
    found = {}
    for name, run in work.items():
        spent = [run() for _ in range(rounds)]
        found[name] = {"fastest": min(spent), "median": statistics.median(spent)}
    return found


def main() -> None:
    """Print the seconds and their targets."""
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
