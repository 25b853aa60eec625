"""Kill sortings and their undoing at random lines and times (SIGKILL): in the end the tree is as it was, by hash.

A case is a random tree and a plan in one of seven ways. Its sorting is killed once or twice and in half of the cases
gone on with to its end, which must be that of a sorting that nobody killed. Then it is undone, with kills in between.

usage: python tests/sort_kills.py --count 200 --seed 1
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)] if str(HERE) not in sys.path else []

from sort_trees import KEPT, make_plan, make_tree, parts_left, snapshot  # noqa: E402

from sharpzo_mlx.sorting.plan import read_sort_plan  # noqa: E402
from sharpzo_mlx.sorting.undo import undo_sort  # noqa: E402

WAYS = ("copy", "move", "tag", "link", "symlink", "in place", "other disk")
SORTING = str(HERE.parent / "sharpzo_mlx" / "sorting") + os.sep
RENAMES = str(HERE.parent / "sharpzo_mlx" / "runtime" / "renames.py")
ALL = (SORTING, RENAMES)
TOUCHING = (RENAMES, *(f"{SORTING}{name}.py" for name in ("transfer", "copying", "tags", "taking_back")))
SHARED = Path("/dev/shm")


def other_disk(place: Path) -> Path | None:
    """Return a folder on another disk than a place, or None."""
    known = SHARED.is_dir() and os.access(SHARED, os.W_OK) and SHARED.stat().st_dev != place.stat().st_dev
    return SHARED if known else None


class Lines:
    """A tracer that counts the lines of the sorting that are run, and at one of them ends the process."""

    def __init__(self, last: int, where: tuple[str, ...]) -> None:
        self.seen, self.last, self.where = 0, last, where

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        return self._count if frame.f_code.co_filename.startswith(self.where) else None

    def _count(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            self.seen += 1
            if self.seen == self.last:
                os.kill(os.getpid(), signal.SIGKILL)
        return self._count


def run(
    action: Callable[[], object], *, line: int = 0, after: float = 0.0, where: tuple[str, ...] = ALL
) -> tuple[bool, int]:
    """Run an action in a child; return whether it came to its end, and the lines that were run.

    Args:
        action: what to do.
        line: the line at which the child is killed; 0 for none.
        after: seconds after which it is killed; 0 for never.
        where: how the paths of the files begin whose lines count.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            lines = Lines(line, where)
            sys.settrace(lines)
            action()
            sys.settrace(None)
            os.write(writing, str(lines.seen).encode())
            code = 0
        except BaseException as error:
            sys.settrace(None)
            os.write(writing, f"!{type(error).__name__}: {error}".encode(errors="replace")[:2000])
        finally:
            os._exit(code)
    os.close(writing)
    if after:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    with open(reading, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    if said.startswith("!"):
        raise RuntimeError(said)
    return os.waitstatus_to_exitcode(status) == 0, int(said or 0)


class Case:
    """One random tree, its plan, and a second tree like it that nobody kills in."""

    def __init__(self, work: Path, way: str, seed: str) -> None:
        self.way, self.rng = way, random.Random(seed)
        work.mkdir()
        self.folder, self.into = work / "photos", work / "sorted"
        if way == "other disk" and (disk := other_disk(work)):
            self.into = Path(tempfile.mkdtemp(prefix="sort-kills-", dir=disk)) / "sorted"
        paths = make_tree(self.folder, self.rng)
        make_tree(self.into / "cat", self.rng, 4)
        if way in ("in place", "tag"):
            self.into = self.folder
        self.plan = make_plan(work / "plan.json", self.folder, paths, self.rng)
        self.lines: dict[tuple[str, ...], int] = {}
        self.mode: Any = {"in place": "move", "other disk": "move"}.get(way, way)

    def apply(self) -> None:
        into = None if self.mode == "tag" else self.into
        read_sort_plan(self.plan, into, mode=self.mode).apply()

    def undo(self) -> None:
        for journal in sorted((self.into / KEPT).glob("*.jsonl"), key=lambda one: one.stat().st_mtime_ns, reverse=True):
            result = undo_sort(journal)
            if result.kept:
                raise RuntimeError(f"kept {result.kept}")

    def look(self) -> dict[str, str]:
        return snapshot(self.folder, self.into)

    def kill(self, action: Callable[[], None], seconds: float) -> bool:
        """Run an action that is killed at a random line or time; return whether it was."""
        if self.rng.random() < 0.2:
            return not run(action, after=self.rng.uniform(0.0005, seconds))[0]
        where = self.rng.choice(list(self.lines))
        return not run(action, line=self.rng.randrange(1, self.lines[where] + 1), where=where)[0]


def try_case(way: str, seed: str) -> tuple[int, list[str]]:
    """Return how often a case was killed, and what is not as it should be."""
    with tempfile.TemporaryDirectory(prefix="sort-kills-") as folder:
        whole = Case(Path(folder, "whole"), way, seed)
        case = Case(Path(folder, "killed"), way, seed)
        try:
            return _kill(case, whole)
        finally:
            for one in (case, whole):
                if not one.into.is_relative_to(folder):
                    shutil.rmtree(one.into.parent)


def _kill(case: Case, whole: Case) -> tuple[int, list[str]]:
    before, faults, killed = case.look(), [], 0
    began = time.monotonic()
    case.lines = {ALL: run(whole.apply)[1], TOUCHING: run(whole.undo, where=TOUCHING)[1]}
    run(whole.apply)
    seconds = time.monotonic() - began
    for _ in range(case.rng.choice((1, 1, 2))):
        killed += case.kill(case.apply, seconds)
        lost = set(before.values()) - set(case.look().values())
        if case.mode != "tag" and any(not one.startswith("link to") for one in lost):
            faults.append("a file was lost by the kill")
    if case.rng.random() < 0.5:
        run(case.apply)
        if _plain(case) != _plain(whole):
            faults.append("going on ended otherwise than a sorting that nobody killed")
    for _ in range(case.rng.choice((0, 1, 2))):
        killed += case.kill(case.undo, seconds)
    run(case.undo)
    after = case.look()
    faults += [f"{path!r}: {before.get(path)} became {after.get(path)}" for path in before.keys() | after.keys()
               if before.get(path) != after.get(path)]  # fmt: skip
    return killed, faults + [f"left {path}" for path in parts_left(case.folder, case.into)]


def _plain(case: Case) -> dict[str, str]:
    """Return a tree without the names of the folders around it."""
    return {path: words.replace(str(case.folder), "") for path, words in case.look().items()}


def main(words: list[str]) -> int:
    """Kill in turn, print what failed and a table, and return 0 if nothing failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--way", action="append", choices=WAYS, default=[])
    asked = parser.parse_args(words)
    ways = asked.way or WAYS
    tried, kills, failed = Counter[str](), Counter[str](), Counter[str]()
    for number in range(asked.count):
        way = ways[number % len(ways)]
        try:
            killed, faults = try_case(way, f"{asked.seed} {number}")
        except RuntimeError as error:
            killed, faults = 0, [str(error)]
        tried[way] += 1
        kills[way] += killed
        failed[way] += bool(faults)
        if faults:
            print(f"case {number}, {way}: {'; '.join(faults)}", flush=True)
    print("| way | cases | kills | failures |\n|---|---|---|---|")
    print("\n".join(f"| {way} | {tried[way]} | {kills[way]} | {failed[way]} |" for way in tried))
    print(f"| **all** | **{sum(tried.values())}** | **{sum(kills.values())}** | **{sum(failed.values())}** |")
    return 1 if sum(failed.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
