"""Damage every kind of file that is read, in thousands of ways, and see that each ends in a result or in one line.

Each input is a damaged copy of a small whole folder and a command that reads it, run in a forked child. It must end
with exit code 0, or with 2 and one line; in 5 s and 1 GB; start no program, reach for no network, and touch nothing
outside of its output. What fails is kept in the folder `--keep`, and made smaller.

usage: python tests/fuzz.py --minutes 30 --seed 1 [--kind "run: "] [--count N] [--only NUMBER] [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "fuzz")]
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("SHARPZO_MLX_DEVICE", "cpu")  # a GPU cannot be used in a forked child

import sharpzo_mlx  # noqa: E402, F401, I001  (before MLX)
from campaign import Campaign, Tried  # noqa: E402
from child import warm_up  # noqa: E402
from smallest import keep, make_smaller  # noqa: E402


class Tally:
    """What came of the inputs, by kind."""

    def __init__(self) -> None:
        self.exits: dict[str, Counter[int]] = defaultdict(Counter)
        self.failures: list[Tried] = []
        self.longest, self.largest = 0.0, 0.0

    def add(self, tried: Tried) -> None:
        """Count an input."""
        self.exits[tried.kind][tried.outcome.code] += 1
        self.longest = max(self.longest, tried.outcome.seconds)
        self.largest = max(self.largest, tried.outcome.megabytes)
        if tried.faults:
            self.failures.append(tried)

    def table(self) -> str:
        """Return the table of kinds, in Markdown."""
        failed = Counter(tried.kind for tried in self.failures)
        rows = [
            f"| {kind} | {sum(codes.values())} | {codes[0]} | {codes[2]} | {failed[kind]} |"
            for kind, codes in sorted(self.exits.items())
        ]
        sums = [sum(codes[code] for codes in self.exits.values()) for code in (0, 2)]
        total = sum(sum(codes.values()) for codes in self.exits.values())
        rows.append(f"| **all** | **{total}** | **{sums[0]}** | **{sums[1]}** | **{len(self.failures)}** |")
        heading = ["| file | inputs | exit 0 | exit 2, one line | failures |", "|---|---|---|---|---|"]
        return "\n".join([*heading, *rows])


def main(words: list[str]) -> int:
    """Run a campaign, print its table, and return 0 if nothing failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1 << 40)
    parser.add_argument("--kind", action="append", default=[])
    parser.add_argument("--only", type=int, default=None)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"))
    asked = parser.parse_args(words)
    warm_up()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as work:
        campaign = Campaign(Path(work, "w"), asked.seed, asked.kind)
        if asked.only is not None:
            tried = campaign.try_input(asked.only)
            print(*(" ".join(line) for line in tried.lines), tried.outcome.out, tried.outcome.err, tried, sep="\n")
            return bool(tried.faults)
        return run(campaign, asked.minutes * 60, asked.count, asked.keep)


def run(campaign: Campaign, seconds: float, count: int, folder: Path) -> int:
    """Try inputs until the time or the count is over; print failures as they come and the table at the end."""
    tally, started = Tally(), time.monotonic()
    for number in campaign.inputs():
        if number >= count or time.monotonic() - started > seconds:
            break
        tried = campaign.try_input(number)
        tally.add(tried)
        if tried.faults:
            print(f"input {number}, {tried.kind}, {tried.change}: {'; '.join(tried.faults)}", flush=True)
    print(f"\nseed {campaign.seed}, {time.monotonic() - started:.0f} s\n\n{tally.table()}\n")
    print(f"longest {tally.longest:.1f} s, most memory {tally.largest:.0f} MB")
    for tried in tally.failures:
        keep(campaign, tried, folder)
    for tried in {
        (one.kind, one.faults[0].split(" '")[0]): one for one in sorted(tally.failures, key=lambda one: -one.size)
    }.values():
        path, size = make_smaller(campaign, tried, folder)
        print(f"smallest: {path} ({size} bytes): {tried.kind}: {'; '.join(tried.faults)}")
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
