"""Eight commands that are killed at random moments: what each begins with, how it is rerun, and what its result is.

>>> COMMANDS["predict"].line("case", "bases")  # doctest: +SKIP
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bases import COMPARED, LONG
from PIL import Image

CHANGING = re.compile(r"seconds|_mb$|memory|^time|versions|started|date")  # fields that no two runs share


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        begin: puts what must be there into the case's folder.
        words: the command line, with `{case}` and `{bases}`.
        result: what it is for, from the case's folder and what was printed; equal after every rerun.
    """

    begin: Callable[[Path, Path], None]
    words: tuple[str, ...]
    result: Callable[[Path, str], object]

    def line(self, case: Path, bases: Path) -> list[str]:
        """Return the command line of a case."""
        return [word.replace("{case}", str(case)).replace("{bases}", str(bases)) for word in self.words]


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def without_times(value: Any) -> Any:
    """Return JSON without seconds, memory and the like."""
    if isinstance(value, dict):
        return {name: without_times(inner) for name, inner in value.items() if not CHANGING.search(name)}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def read(path: Path) -> Any:
    """Return a JSON file without times."""
    return without_times(json.loads(path.read_text()))


def _nothing(case: Path, bases: Path) -> None:
    pass


def _old_model(case: Path, bases: Path) -> None:
    shutil.copytree(bases / "model", case / "o")


def _run(case: Path, bases: Path) -> None:
    shutil.copytree(bases / "run", case / "run")


def _run_and_more(case: Path, bases: Path) -> None:
    """Put a run beside new images of a known class and of a new one."""
    _run(case, bases)
    for name, colour in (("cat", (190, 70, 50)), ("fox", (220, 140, 30))):
        (case / "more" / name).mkdir(parents=True)
        for number in range(3):
            shade = tuple(value + 5 * number for value in colour)
            Image.new("RGB", (16, 12), shade).save(case / "more" / name / f"{number}.png")


def _tuned(case: Path, _: str) -> object:
    steps = [without_times(json.loads(line)) for line in (case / "run" / "steps.jsonl").read_text().splitlines()]
    names = sorted(path.name for path in (case / "run").iterdir())
    return (case / "run" / "prompt.safetensors").read_bytes(), read(case / "run" / "run.json")["results"], steps, names


def _added(case: Path, _: str) -> object:
    run = case / "run"
    versions = {path.name: read(path / "run.json") for path in sorted((run / "history").iterdir())}
    prompts = [path.read_bytes() for path in (run / "prompt.safetensors", run / "history" / "2" / "prompt.safetensors")]
    return versions, read(run / "run.json"), prompts, sorted(path.name for path in run.iterdir())


def _compared(case: Path, _: str) -> object:
    cells = {path.name: read(path)["measurements"] for path in sorted((case / "c").glob("*/*.json"))}
    return cells, read(case / "c" / "comparison.json"), sorted(path.name for path in (case / "c").iterdir())


def _page(case: Path, _: str) -> object:
    page = (case / "run" / "report.html").read_text()
    return len(re.findall("<h2", page)), page.rstrip().endswith("</html>"), re.findall(r"[0-9.]+ %", page)


MODEL = ("--model", "{bases}/model")
COMMANDS = {
    "convert": Command(
        _nothing, ("convert", "{bases}/hf", "--output", "{case}/o", "--force"), lambda case, _: contents(case / "o")
    ),
    "convert --force": Command(
        _old_model,
        ("convert", "{bases}/hf", "--output", "{case}/o", "--force", "--dtype", "float16"),
        lambda case, _: contents(case / "o"),
    ),
    "tune": Command(
        _nothing,
        ("tune", "{bases}/photos", *MODEL, "--output", "{case}/run", "--resume", *LONG, "--steps", "40"),
        _tuned,
    ),
    "evaluate": Command(
        _run,
        ("evaluate", "{case}/run", "{bases}/photos"),
        lambda case, out: (read(case / "run" / "evaluations.json"), out),
    ),
    "predict": Command(
        _run,
        ("predict", "{case}/run", *(f"{{bases}}/photos/cat/{n}.png" for n in range(6)), "--json"),
        lambda _, out: without_times(json.loads(out)),
    ),
    "compare": Command(
        _nothing, ("compare", "{bases}/photos", *MODEL, "--output", "{case}/c", *COMPARED, "--seeds", "2"), _compared
    ),
    "add": Command(_run_and_more, ("add", "{case}/run", "{case}/more", "--class", "lynx"), _added),
    "report": Command(_run, ("report", "{case}/run", "--png"), _page),
}
