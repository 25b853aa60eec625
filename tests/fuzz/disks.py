"""Run six commands on disks that are full, read-only, or lose the output: one line, nothing half, a whole rerun.

A small tmpfs is such a disk where this process may mount one; elsewhere the limit of a file's size stands for a full
disk. Prints one JSON list of what is not as it should be.

usage: python tests/fuzz/disks.py [--quick] [full] [read-only] [vanishing] [cache]    (all four if none is named)
"""

from __future__ import annotations

import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from kills import Killing, broken, leftovers  # noqa: E402, I001  (it imports sharpzo_mlx first)
from campaign import find_faults  # noqa: E402
from child import Outcome, warm_up  # noqa: E402
from killed_commands import COMMANDS  # noqa: E402

EXTRA = (8, 64, 0, 24, 160)  # KiB of room that a command has
LIMITS = (6, 20, 1, 60)  # KiB that a file may have
MOUNTED = "size=64m"


def remount(place: Path, *options: str) -> None:
    """Change a mounted disk."""
    done = subprocess.run(
        ["mount", "-o", ",".join(("remount", *options)), str(place)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"remount {options}: {done.stderr}")


@contextmanager
def disk(place: Path) -> Iterator[bool]:
    """Mount a small disk at a place, and say whether that was possible."""
    place.mkdir(parents=True)
    done = None
    if sys.platform == "linux" and os.geteuid() == 0 and shutil.which("mount"):
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", MOUNTED, "tmpfs", str(place)], capture_output=True, check=False
        )
    mounted = done is not None and done.returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], check=False)


def used(place: Path) -> int:
    """Return the KiB that are used on a disk."""
    state = os.statvfs(place)
    return (state.f_blocks - state.f_bfree) * state.f_frsize // 1024


def again(killing: Killing, name: str, outcome: Outcome, where: str) -> list[str]:
    """Return what is wrong with how a command ended, what it left, and how it ends when it is run again."""
    expected = killing.whole[name][0]
    faults = [*find_faults(outcome), *(f"left {left}" for left in leftovers(killing.case))]
    faults += [f"not whole: {path.name}" for path in broken(killing.case)]
    done = killing.run(name)
    if done.code:
        faults.append(f"the rerun ended with {done.code}: {done.err[-300:]}")
    elif COMMANDS[name].result(killing.case, done.out) != expected:
        faults.append("another result than on a disk with room")
    faults += [f"left {left} after the rerun" for left in leftovers(killing.case)]
    return [f"{name}, {where}: {fault}: {outcome.err[-300:]}" for fault in faults]


def full(killing: Killing, place: Path, mounted: bool, tries: int) -> list[str]:
    """Run each command with little room, then with enough."""
    faults: list[str] = []
    for name in COMMANDS:
        for size in (EXTRA if mounted else LIMITS)[:tries]:
            killing.begin(name)
            limits: Callable[[], None] | None = None
            if mounted:
                remount(place, f"size={max(used(place) + size, 4)}k")  # 0 would be no limit
            else:
                limits = _limit_files(size << 10)
            outcome = killing.run(name, limits=limits)
            if mounted:
                remount(place, MOUNTED)
            faults += again(killing, name, outcome, f"{size} KiB")
    return faults


def _limit_files(size: int) -> Callable[[], None]:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    return limit


def read_only(killing: Killing, place: Path, mounted: bool, tries: int) -> list[str]:
    """Run each command on a disk that cannot be written to."""
    faults: list[str] = []
    for name in COMMANDS if mounted else ():
        killing.begin(name)
        remount(place, "ro")
        outcome = killing.run(name)
        remount(place, "rw")
        faults += again(killing, name, outcome, "read-only")
    return faults


def vanishing(killing: Killing, place: Path, mounted: bool, tries: int) -> list[str]:
    """Move the output away at a random moment: the command ends with one line or goes on, and leaves no half run."""
    faults: list[str] = []
    rng = random.Random(0)
    aside = place / "aside"

    def move() -> None:
        if killing.case.exists():
            killing.case.rename(aside)

    for name in COMMANDS:
        for _ in range(tries):
            killing.begin(name)
            shutil.rmtree(aside, ignore_errors=True)
            outcome = killing.run(name, kill_at=rng.randrange(1, killing.whole[name][2] + 1), instead=move)
            half = [path for path in (killing.case, aside) for path in broken(path)]
            record = killing.case / "run" / "run.json"
            if name == "tune" and record.exists() and json.loads(record.read_text())["status"] == "finished":
                half += [record] if not (killing.case / "run" / "prompt.safetensors").exists() else []
            wrong = [*find_faults(outcome), *(f"not whole: {path.name}" for path in half)]
            faults += [f"{name}, vanishing: {fault}: {outcome.err[-600:]}" for fault in wrong]
    shutil.rmtree(aside, ignore_errors=True)
    return faults


def alike(one: object, other: object) -> bool:
    """Whether two results are the same but for rounding: without a cache images are encoded in other batches."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-7)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(alike, one, other))
    return one == other


def cache(killing: Killing, place: Path, mounted: bool, tries: int) -> list[str]:
    """Let only the cache be full or read-only: the result is the same, with one notice."""
    faults: list[str] = []
    shutil.rmtree(killing.case, ignore_errors=True)  # `vanishing` may have moved it away
    killing.case, killing.cache = killing.work / "case", place / "cache"
    for name in COMMANDS if mounted else ():
        killing.begin(name)
        expected = COMMANDS[name].result(killing.case, killing.run(name).out)
        for option in ("size=4k", "ro")[: tries - 1]:
            killing.begin(name)
            shutil.rmtree(place / "cache", ignore_errors=True)
            remount(place, option)
            outcome = killing.run(name)
            remount(place, "rw", MOUNTED)
            said = [line for line in outcome.err.splitlines() if "cache" in line]
            wrong = find_faults(outcome)
            if outcome.code or not alike(COMMANDS[name].result(killing.case, outcome.out), expected):
                wrong.append("another result than with a cache")
            if len(said) > 1:
                wrong.append(f"{len(said)} notices")
            faults += [f"{name}, cache {option}: {fault}: {outcome.err[-600:]}" for fault in wrong]
    return faults


def main(words: list[str]) -> int:
    """Run the kinds of disks that are named; print what is wrong as JSON."""
    kinds = {"full": full, "read-only": read_only, "vanishing": vanishing, "cache": cache}
    asked, tries = [word for word in words if word in kinds] or list(kinds), 2 if "--quick" in words else 5
    warm_up()
    with tempfile.TemporaryDirectory(prefix="disks-") as folder:
        place = Path(folder).resolve() / "disk"
        with disk(place) as mounted:
            killing = Killing(Path(folder, "w"), 0, room=place)
            for name in COMMANDS:
                killing.expect(name)
            print(json.dumps([fault for kind in asked for fault in kinds[kind](killing, place, mounted, tries)]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
