"""Run one input after another: a damaged copy of a base, the command that reads it, and what must hold afterwards.

Everything follows from the seed and the input's number, so that each input can be made again alone.

>>> Campaign(Path("work"), seed=1).try_input(17).faults  # doctest: +SKIP
()
"""

from __future__ import annotations

import math
import os
import random
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bases import make_bases
from child import MEGABYTES, SECONDS, Allowed, Outcome, call, commands
from other_mutations import NODES, put_node
from subjects import SUBJECTS, Subject

ROOT = Path(__file__).resolve().parents[2]
FOREIGN = re.compile(
    r"Traceback|Warning|^\s*warnings\.|terminate called|libpng|libtiff|TIFF\w+:|^mlx was|Corrupt JPEG", re.M
)
LEFT = re.compile(r"^\..*-(sharpzo-|old-)?[a-z0-9_]{8}(\..*)?$")
NUMBER = re.compile(r"-?[0-9.]+(e-?[0-9]+)?")
NODE_SHARE = 0.04  # of the inputs that are no file at all


@dataclass(frozen=True)
class Tried:
    """One input and what came of it; `faults` is empty where everything held."""

    number: int
    kind: str
    change: str
    lines: tuple[tuple[str, ...], ...]
    outcome: Outcome
    faults: tuple[str, ...]
    size: int


class Campaign:
    """Inputs of one seed in a folder of their own.

    Args:
        work: an empty or missing folder; bases are made in it.
        seed: of the inputs.
        kinds: only the subjects whose kind begins with one of these; all if empty.
    """

    def __init__(self, work: Path, seed: int, kinds: Sequence[str] = ()) -> None:
        self.work, self.seed = work.resolve(), seed
        self.subjects = [one for one in SUBJECTS if not kinds or one.kind.startswith(tuple(kinds))]
        self.bases, self.case, self.canary = (self.work / name for name in ("bases", "case", "outside"))
        self.canary.mkdir(parents=True)
        (self.canary / "victim.txt").write_text("precious\n" * 500)
        made = call(lambda: make_bases(self.bases) or 0, self.work, Allowed((self.work,), (ROOT,)))  # type: ignore[func-returns-value]
        if made.code:
            raise RuntimeError(made.err)
        self.before = snapshot(self.bases, self.canary)
        self.places = {"{bases}": str(self.bases), "{run}": str(self.case / "run")}
        self.whole_rows = ""

    def inputs(self) -> Iterator[int]:
        """Return numbers without end."""
        return iter(range(1 << 40))

    def try_input(self, number: int, content: bytes | None = None) -> Tried:
        """Make an input by its number, run it, and look at what it did.

        Args:
            number: which input; one subject after another.
            content: in place of the damaged file of that number, to make a failing input smaller.
        """
        rng = random.Random(f"{self.seed} {number}")
        subject = self.subjects[number % len(self.subjects)]
        copied = self._set_up(subject)
        path = rng.choice(subject.find(copied))
        change = self._damage(subject, path, rng, content)
        places = {"{in}": str(copied), "{out}": str(self.case / "out"), "{file}": str(path), **self.places}
        lines = tuple(tuple(fill(word, places) for word in line) for line in rng.choice(subject.ways))
        written = [Path(fill(one, places)) for one in subject.writes]
        outcome, changed = self._run(lines, written, cache=copied if subject.base == "cache" else self.case / "cache")
        faults = [*find_faults(outcome), *changed, *(f"left {name}" for name in self._leftovers())]
        if subject.base == "cache" and not outcome.code and not alike(outcome.out, self._whole_rows(lines)):
            faults.append("other numbers than without the damage")
        size = path.stat().st_size if path.is_file() and not path.is_symlink() else 0
        return Tried(number, subject.kind, change, lines, outcome, tuple(faults), size)

    def damaged_file(self, number: int) -> tuple[Path, bytes]:
        """Return the changed file of an input, which is made anew, and its content (empty for a node)."""
        rng = random.Random(f"{self.seed} {number}")
        subject = self.subjects[number % len(self.subjects)]
        path = rng.choice(subject.find(self._set_up(subject)))
        self._damage(subject, path, rng, None)
        return (
            path,
            path.read_bytes() if path.is_file() and path.stat().st_size < 1 << 26 and not path.is_symlink() else b"",
        )

    def _set_up(self, subject: Subject) -> Path:
        shutil.rmtree(self.case, ignore_errors=True)
        for name in ("out", "tmp", "home", "cwd"):
            (self.case / name).mkdir(parents=True)
        shutil.copytree(self.bases / "run", self.case / "run")
        return Path(shutil.copytree(self.bases / subject.base, self.case / "in"))

    def _damage(self, subject: Subject, path: Path, rng: random.Random, content: bytes | None) -> str:
        if rng.random() < NODE_SHARE:
            kind = rng.choice(NODES)
            put_node(path, kind, self.canary / "victim.txt")
            return f"{path.name} is {kind}"
        damaged = subject.mutate(path, rng)
        path.write_bytes(damaged if content is None else content)
        return f"{path.name} changed"

    def _run(self, lines: Sequence[Sequence[str]], written: list[Path], cache: Path) -> tuple[Outcome, list[str]]:
        """Run command lines in a child; return how it ended, and what it changed where it must change nothing."""
        untouched = [
            self.case / name for name in ("in", "home", "cwd", "tmp") if self.case / name not in (*written, cache)
        ]
        before = snapshot(*untouched)
        settings = {"SHARPZO_MLX_CACHE": cache, "HOME": self.case / "home", "TMPDIR": self.case / "tmp",
                    "XDG_CACHE_HOME": self.case / "home"}  # fmt: skip
        run = commands(lines)

        def begin() -> int:
            os.environ |= {name: str(value) for name, value in settings.items()}
            os.chdir(self.case / "cwd")
            return run()

        allowed = Allowed((*written, cache, self.case / "run", self.case / "tmp"), (self.case, self.bases, ROOT))
        outcome = call(begin, self.case, allowed)
        changed = [f"changed {path}" for path in difference(before, snapshot(*untouched))]
        changed += [f"changed {path}" for path in difference(self.before, snapshot(self.bases, self.canary))]
        return outcome, changed

    def _leftovers(self) -> list[str]:
        return [name for _, folders, files in os.walk(self.case) for name in (*folders, *files) if LEFT.match(name)]

    def _whole_rows(self, lines: Sequence[Sequence[str]]) -> str:
        if not self.whole_rows:
            self.whole_rows = self._run(lines, [], self.case / "other")[0].out
        return self.whole_rows


def fill(word: str, places: dict[str, str]) -> str:
    """Return a word of a command with its places put in."""
    for name, place in places.items():
        word = word.replace(name, place)
    return word


def find_faults(outcome: Outcome) -> list[str]:
    """Return what an input must not do: anything but exit 0, or exit 2 with one line."""
    faults = list(outcome.touched)
    errors = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    if outcome.code not in (0, 2):
        faults.append(f"exit {outcome.code}")
    elif outcome.code == 2 and (len(errors) != 1 or not outcome.err.rstrip("\n").endswith(errors[0])):
        faults.append("not one error line")
    elif outcome.code == 0 and errors:
        faults.append("an error line with exit 0")
    if found := FOREIGN.search(outcome.err):
        faults.append(f"stderr has {found.group()!r}")
    if not all(character.isprintable() or character in "\n\t" for character in outcome.err + outcome.out):
        faults.append("control characters were printed")
    if outcome.seconds > SECONDS or outcome.wall > 4 * SECONDS:  # other processes may want the processor too
        faults.append(f"more than {SECONDS:.0f} s")
    if outcome.megabytes > MEGABYTES:
        faults.append(f"more than {MEGABYTES:.0f} MB")
    return faults


def alike(one: str, other: str) -> bool:
    """Return whether two tables in CSV have the same words and numbers, but for rounding in batches of other sizes."""
    words = [re.split("[,\n]", text) for text in (one, other)]
    if len(words[0]) != len(words[1]):
        return False
    return all(
        a == b
        or (
            NUMBER.fullmatch(a) and NUMBER.fullmatch(b) and math.isclose(float(a), float(b), rel_tol=1e-3, abs_tol=1e-5)
        )
        for a, b in zip(*words, strict=True)
    )


def snapshot(*folders: Path) -> dict[str, tuple[int, int, int]]:
    """Return kind, size and time of change of everything in some folders."""
    found = {}
    for folder in folders:
        for root, names, files in os.walk(folder):
            for name in (*names, *files):
                path = os.path.join(root, name)
                state = os.lstat(path)
                found[path] = (
                    state.st_mode,
                    0 if name in names else state.st_size,
                    0 if name in names else state.st_mtime_ns,
                )
    return found


def difference(before: dict[str, tuple[int, int, int]], after: dict[str, tuple[int, int, int]]) -> list[str]:
    """Return the paths that came, went or changed."""
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
