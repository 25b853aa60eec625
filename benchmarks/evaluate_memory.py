"""Measure the memory peak of `evaluate` for growing numbers of images, with an empty and with a full cache.

The script draws distinct small JPEGs and tunes a run with a tiny budget on some of them. `sharpzo-mlx evaluate` then
runs in separate processes over folders of 2 000, 8 000 and 50 000 images, first with an empty feature cache, then with
the cache of the first run. With `--kill`, the first run is killed (SIGKILL) after the given seconds. The script prints
a table in Markdown and writes the numbers to a JSON file.

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
    """Draw distinct JPEGs in `folder/class k/`: one tint per class, and different noise in each image."""
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


def link_images(paths: list[Path], folder: Path) -> Path:
    """Make a folder of class folders with hard links to images, and return it."""
    for path in paths:
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        os.link(path, folder / path.parent.name / path.name)
    return folder


def run(words: list[str | Path], cache: Path, kill: float | None = None) -> dict[str, float]:
    """Run `sharpzo-mlx`, killed after `kill` seconds if given; return its peak memory in bytes and its seconds.

    On Linux, the peak includes the pages of the parent process, so this script stays small and does not import MLX.
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
    parser.add_argument("--scratch", type=Path, help="parent of the temporary folder for the images")
    parser.add_argument("--output", type=Path, default=Path("evaluate_memory.json"))
    given = parser.parse_args()
    results = []
    print("| images | first, MB | s | second, MB | s |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=given.scratch) as name:
        scratch = Path(name)
        paths = draw_images(scratch / "drawn", max(given.images))
        tuned, folder = link_images(paths[: 20 * CLASSES], scratch / "tuned-on"), scratch / "run"
        run(["tune", tuned, "--model", given.model, "--output", folder, *BUDGET], scratch / "cache-of-tune")
        for count in given.images:
            words = ["evaluate", folder, link_images(paths[:count], scratch / f"images-{count}"), "--json"]
            first = run(words, scratch / f"cache-{count}", given.kill)
            second = run(words, scratch / f"cache-{count}")
            results.append({"images": count, "first": first, "second": second})
            cells = [f"{one['peak'] / 1e6:.1f} | {one['seconds']}" for one in (first, second)]
            print(f"| {count} | {' | '.join(cells)} |", flush=True)
    given.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
