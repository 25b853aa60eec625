"""Kill commands at random moments (SIGKILL) and run them again: the result must be that of a command nobody killed.

The moments are random times, and random ones of the events in which a command writes, renames or removes. One case in
five is killed twice. After the kill every file under its own name is whole; after the rerun no temporary file is left.

usage: python tests/kills.py --count 200 --seed 1 [--command tune]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [one for one in (str(HERE), str(HERE / "fuzz")) if one not in sys.path]
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("SHARPZO_MLX_DEVICE", "cpu")  # a GPU cannot be used in a forked child

import sharpzo_mlx  # noqa: E402, F401, I001  (before MLX)
from bases import make_bases  # noqa: E402
from campaign import LEFT, ROOT  # noqa: E402
from child import PATIENCE, Allowed, Outcome, call, warm_up  # noqa: E402
from killed_commands import COMMANDS  # noqa: E402

EVENTS = {
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.chmod",
    "sqlite3.connect",
    "ctypes.dlsym",
    "fcntl.flock",
}


class Killing:
    """Kills of one seed in a folder of their own.

    Args:
        work: an empty or missing folder.
        seed: of the moments.
        room: where the commands write, if not in `work`.
    """

    def __init__(self, work: Path, seed: int, room: Path | None = None) -> None:
        self.work, self.seed = work.resolve(), seed
        self.bases, self.case = self.work / "bases", (room or self.work) / "case"
        self.cache = self.case / "cache"
        self.work.mkdir(parents=True)
        made = call(lambda: make_bases(self.bases) or 0, self.work, Allowed((self.work,), (ROOT,)))  # type: ignore[func-returns-value]
        if made.code:
            raise RuntimeError(made.err)
        self.whole: dict[str, tuple[object, float, int]] = {}
        self.killed = 0  # how often the last case was

    def kill(self, number: int, name: str) -> list[str]:
        """Kill a command, run it again, and return what is not as it should be."""
        rng = random.Random(f"{self.seed} {number} {name}")
        expected, seconds, events = self.expect(name)
        self.begin(name)
        faults = []
        self.killed = 0
        for _ in range(rng.choice((1, 1, 1, 1, 2))):
            if rng.random() < 0.5:
                outcome = self.run(name, kill_after=rng.uniform(0, seconds))
            else:
                outcome = self.run(name, kill_at=rng.randrange(1, events + 1))
            self.killed += outcome.code == -signal.SIGKILL
            if outcome.code not in (0, -signal.SIGKILL):
                faults.append(f"before the kill: exit {outcome.code}: {outcome.err[-300:]}")
            faults += [f"not whole after the kill: {path.name}" for path in broken(self.case)]
        again = self.run(name)
        if again.code:
            return [*faults, f"the rerun ended with {again.code}: {again.err[-500:]}"]
        if COMMANDS[name].result(self.case, again.out) != expected:
            faults.append("another result than without the kill")
        return faults + [f"left {left}" for left in leftovers(self.case)]

    def expect(self, name: str) -> tuple[object, float, int]:
        """Return the result, the seconds and the number of events of a command that nobody kills."""
        if name not in self.whole:
            self.begin(name)
            outcome = self.run(name, count=True)
            if outcome.code:
                raise RuntimeError(outcome.err)
            events = int((self.work / "events").read_text())
            self.whole[name] = COMMANDS[name].result(self.case, outcome.out), outcome.wall, events
        return self.whole[name]

    def begin(self, name: str) -> None:
        """Put what a command begins with into an empty case."""
        shutil.rmtree(self.case, ignore_errors=True)
        self.case.mkdir()
        COMMANDS[name].begin(self.case, self.bases)

    def run(
        self,
        name: str,
        *,
        kill_after: float = 0.0,
        kill_at: int = 0,
        count: bool = False,
        instead: Callable[[], None] | None = None,
        limits: Callable[[], None] | None = None,
    ) -> Outcome:
        """Run a command in a child.

        Args:
            name: of the command.
            kill_after: seconds after which it is killed; 0 for never.
            kill_at: the event at which it is killed; 0 for none.
            count: whether to count its events.
            instead: what happens at that event in place of the kill.
            limits: set in the child first of all.
        """
        line = COMMANDS[name].line(self.case, self.bases)

        def act() -> int:
            from sharpzo_mlx.cli import main, streams
            from sharpzo_mlx.tuning import checkpointing

            streams.prepare()
            checkpointing.CHECKPOINT_SECONDS = 0  # so that every step writes
            os.environ["SHARPZO_MLX_CACHE"] = str(self.cache)
            counter = _Counter(kill_at, instead)
            sys.addaudithook(counter)
            code = main.run(line)
            if count:
                seen = counter.seen
                (self.work / "events").write_text(str(seen))
            return code

        return call(
            act,
            self.work,
            Allowed((self.work, self.case.parent, self.cache.parent), (ROOT,)),
            limits=limits,
            patience=kill_after or PATIENCE,
        )


class _Counter:
    """An audit hook that counts events in which files change, and at one of them ends the process or does a deed."""

    def __init__(self, kill_at: int, instead: Callable[[], None] | None) -> None:
        self.seen, self.kill_at, self.instead = 0, kill_at, instead

    def __call__(self, event: str, given: tuple[Any, ...]) -> None:
        writes = event == "open" and given[2] and given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if event in EVENTS or writes:
            self.seen += 1
            if self.seen == self.kill_at:
                if self.instead is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                else:
                    self.instead()


def broken(folder: Path) -> list[Path]:
    """Return the files under their own names that are not whole."""
    return [
        path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".") and not is_whole(path)
    ]


def is_whole(path: Path) -> bool:
    """Return whether a file is whole, as its kind can tell; a log may end in the middle of a line."""
    if any(part.startswith(".") for part in path.parts):
        return True
    content = path.read_bytes()
    try:
        if path.suffix == ".json":
            json.loads(content)
        elif path.suffix == ".safetensors":
            end = 8 + int.from_bytes(content[:8], "little")
            places = [one["data_offsets"][1] for name, one in json.loads(content[8:end]).items() if name[:2] != "__"]
            return bool(len(content) == end + max(places))
        elif path.suffix == ".html":
            return content.rstrip().endswith(b"</html>")
        elif path.suffix == ".png":
            return content.endswith(b"IEND\xaeB`\x82")
    except ValueError:
        return False
    return True


def leftovers(folder: Path) -> list[str]:
    """Return the names of temporary files and folders that are still there."""
    found = [name for _, folders, files in os.walk(folder) for name in (*folders, *files)]
    return [name for name in found if LEFT.match(name) or re.fullmatch(r".*-(journal|wal|shm)", name)]


def main(words: list[str]) -> int:
    """Kill commands in turn, print what failed and a table, and return 0 if nothing failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--command", action="append", choices=list(COMMANDS), default=[])
    asked = parser.parse_args(words)
    warm_up()
    names, began = asked.command or list(COMMANDS), time.monotonic()
    tried, killed, failed = Counter[str](), Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="kills-") as work:
        killing = Killing(Path(work, "w"), asked.seed)
        for number in range(asked.count):
            name = names[number % len(names)]
            faults = killing.kill(number, name)
            tried[name] += 1
            killed[name] += killing.killed
            failed[name] += bool(faults)
            if faults:
                print(f"kill {number}, {name}: {'; '.join(faults)}", flush=True)
    print(
        f"\nseed {asked.seed}, {time.monotonic() - began:.0f} s\n\n| command | cases | kills | failures |\n"
        "|---|---|---|---|"
    )
    print("\n".join(f"| {name} | {tried[name]} | {killed[name]} | {failed[name]} |" for name in tried))
    print(f"| **all** | **{sum(tried.values())}** | **{sum(killed.values())}** | **{sum(failed.values())}** |")
    return 1 if sum(failed.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
