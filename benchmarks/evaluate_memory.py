"""Measure how much memory `evaluate` takes as the number of images grows: the process's peak, first and second time.

Distinct small JPEGs are drawn once; a run with a tiny budget is tuned on some of them; `sharpzo-mlx evaluate` then
runs in a process of its own over folders of 2 000, 8 000 and 50 000 of them, first with an empty feature cache, then
with the one that it filled. With `--kill` the first run is killed (SIGKILL) after that many seconds, and the second
one's notice says what it found. A table in Markdown goes to standard output, the numbers to a JSON file.

    python benchmarks/evaluate_memory.py --model m --images 2000 8000 50000 --output evaluate_memory.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES, SIDE = 10, 64
BUDGET = [
    *("--no-report", "--shots=4", "--generations=2", "--steps=2"),
    *("--set=stage1.population=8", "--set=space.dimension=32"),
]
PROGRAM = [sys.executable, "-c", "import sys; from sharpzo_mlx.cli.main import run; sys.exit(run(sys.argv[1:]))"]


def draw_images(folder: Path, count: int) -> list[Path]:
    """Draw distinct JPEGs into `folder/class k/`, with one tint for each class and random noise."""
    paths = []
    tints = np.random.default_rng(0).integers(60, 200, (CLASSES, 3))
    for number in range(count):
        path = folder / f"class {number % CLASSES}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(-50, 50, (8, 8, 3))
        small = Image.fromarray(np.clip(tints[number % CLASSES] + noise, 0, 255).astype(np.uint8))
        small.resize((SIDE, SIDE)).save(path, quality=90)
        paths.append(path)
    return paths


def linked(paths: list[Path], folder: Path) -> Path:
    """Make a folder of class folders with hard links to images."""
    for path in paths:
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        os.link(path, folder / path.parent.name / path.name)
    return folder


def run(words: list[str | Path], cache: Path, kill: float | None = None) -> dict[str, float]:
    """Return the peak memory in bytes and the seconds of one `sharpzo-mlx`, killed after `kill` seconds if given.

    Linux counts the pages of the process that started it, too, so this one stays small and imports no MLX.
    """
    started = time.monotonic()
    environment = {**os.environ, "SHARPZO_MLX_CACHE": str(cache)}
    child = subprocess.Popen([*PROGRAM, *map(str, words)], env=environment, stdout=subprocess.DEVNULL)
    if kill is not None:
        time.sleep(kill)
        child.kill()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if kill is None and child.returncode:
        raise SystemExit(f"{words[0]} ended with {child.returncode}")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"peak": peak, "seconds": round(time.monotonic() - started, 1)}


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a converted model folder")
    parser.add_argument("--images", type=int, nargs="+", default=[2000, 8000, 50_000])
    parser.add_argument("--kill", type=float, help="kill the first evaluate of each folder after so many seconds")
    parser.add_argument("--scratch", type=Path, help="where the images are drawn; emptied by nobody")
    parser.add_argument("--output", type=Path, default=Path("evaluate_memory.json"))
    given = parser.parse_args()
    results = []
    print("| images | first, MB | s | second, MB | s |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=given.scratch) as name:
        scratch = Path(name)
        paths = draw_images(scratch / "drawn", max(given.images))
        tuned, folder = linked(paths[: 20 * CLASSES], scratch / "tuned-on"), scratch / "run"
        run(["tune", tuned, "--model", given.model, "--output", folder, *BUDGET], scratch / "cache-of-tune")
        for count in given.images:
            words = ["evaluate", folder, linked(paths[:count], scratch / f"images-{count}"), "--json"]
            first = run(words, scratch / f"cache-{count}", given.kill)
            second = run(words, scratch / f"cache-{count}")
            results.append({"images": count, "first": first, "second": second})
            cells = [f"{one['peak'] / 1e6:.1f} | {one['seconds']}" for one in (first, second)]
            print(f"| {count} | {' | '.join(cells)} |", flush=True)
    given.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
