"""What is drawn of the records: bars on a terminal, few and telling lines in a pipe."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sharpzo_mlx.cli import progress, progress_words
from sharpzo_mlx.cli.image_bar import PipedLines, open_bar
from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.evaluation.folders import FolderProgress
from sharpzo_mlx.runs.record import DrawnImages, ModelRecord, RunRecord
from sharpzo_mlx.runs.run import Run
from sharpzo_mlx.tuning.encoding import Encoding
from sharpzo_mlx.tuning.pipeline import Done, Event, Plan
from sharpzo_mlx.tuning.search import TuneStep


def step(number: int, stage: int = 1, **changes: Any) -> TuneStep:
    values = {
        "stage": stage,
        "step": number,
        "of": 30 if stage == 1 else 500,
        "loss": 1.25,
        "val_accuracy": 0.5,
        "val_loss": 1.0,
        "best_val": 0.5,
        "queries": 40 * number,
        "val_queries": number,
        "sigma": 0.4,
        "seconds": 1.0,
        "peak_memory_mb": 100.0,
    }
    return TuneStep(**{**values, **changes})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run on disk with few steps, as `tune_steps` leaves one before its plan."""
    record = RunRecord(
        status="running", dataset="photos", shots=16, model=ModelRecord("m", ""), images=DrawnImages((), ()),
        class_names=(), class_folders=(), versions={},
    )  # fmt: skip
    made = Run(tmp_path / "r", TuneConfig(generations=30, steps=500), record)
    made.save()
    return made


@pytest.fixture
def plan(run: Run) -> Plan:
    return Plan(run.folder, 7, 112, 28, 40_000, 75.0, 0.286)


class Clock:
    """A clock that stands still until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_pipe_hears_the_plan_new_stages_and_new_bests_once(plan: Plan) -> None:
    stream, clock = io.StringIO(), Clock()
    lines = progress.Lines(stream, clock)
    lines.draw(plan)
    for number in range(1, 6):  # all in one moment: only the first of the stage is heard
        lines.draw(step(number))
    clock.now = 5.0
    lines.draw(step(6))  # nothing new
    lines.draw(step(7, best_val=0.75))  # news
    lines.draw(step(1, stage=2, best_val=0.75))  # another stage, at once
    clock.now = 14.0
    lines.draw(step(2, stage=2, best_val=0.75, val_accuracy=None))  # nine seconds of silence
    clock.now = 15.1
    lines.draw(step(3, stage=2, best_val=0.75, val_accuracy=None))  # ten
    shown = stream.getvalue().splitlines()
    assert "zero-shot 28.6 %" in shown[0]
    assert "40000 queries" in shown[0]
    assert "1 min 15 s" in shown[0]
    assert [line.split(":")[0] for line in shown[1:]] == [
        "stage 1, 1 of 30",
        "stage 1, 7 of 30",
        "stage 2, 1 of 500",
        "stage 2, 3 of 500",
    ]
    assert "loss 1.250, validation 50.0 %, kept 75.0 %, 280 queries, 105 MB" in shown[2]
    assert "validation kept 75.0 %" in shown[4]


def test_a_plan_without_validation_images_says_so(plan: Plan) -> None:
    assert "112 training and 28 validation images; zero-shot 28.6 % on" in progress_words.describe_plan(plan)
    assert "112 training and 28 validation images; zero-shot 28.6 % on them" in progress_words.describe_plan(
        replace(plan, head=True)
    )
    words = progress_words.describe_plan(replace(plan, val_images=0))
    assert words == "112 training images, none for validation; at most 40000 queries, about 1 min 15 s"


def test_pipe_hears_of_images_at_the_end_and_after_silence() -> None:
    stream, clock = io.StringIO(), Clock()
    lines = progress.Lines(stream, clock)
    lines.draw(Encoding("train", 10, 100, 0))
    clock.now = 11.0
    lines.draw(Encoding("train", 20, 100, 5))
    lines.draw(Encoding("train", 100, 100, 5))
    lines.draw(FolderProgress(Path("sketch"), 3, 3))
    assert stream.getvalue().splitlines() == [
        "train images: 20 of 100 read, 5 known already",
        "train images: 100 of 100 read, 5 known already",
        "sketch: 3 of 3 read",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_terminal_gets_bars_with_every_figure(plan: Plan, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")
    events: list[Event] = [Encoding("train", 112, 112, 7), plan, step(30, queries=1200), Done(run)]
    stream = Terminal()
    assert progress.follow(events, stream) is run
    shown = stream.getvalue()
    for words in ("train images", "112/112", "7 known already", "stage 1", "30/30", "1200 queries", "105 MB"):
        assert words in shown
    assert "28.6 %" in shown


@pytest.mark.parametrize("columns", [80, 60])
def test_a_narrow_terminal_keeps_bar_count_and_time(
    columns: int, plan: Plan, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    stream, queries = Terminal(), 1200
    events: list[Event] = [Encoding("train", 112, 112, 7), plan, step(30, queries=queries), Done(run)]
    progress.follow(events, stream)
    last = [line for line in stream.getvalue().splitlines() if "stage 1" in line][-1]
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", last).strip("\r")
    assert len(plain) <= columns
    assert re.search(r"━{10} 30/30 +00:00 val 50" if columns == 80 else r"━{10} 30/30 +00:00", plain)
    assert "loss" not in plain


def test_a_long_folder_name_shows_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with progress.open_painter(stream) as draw:
        draw(FolderProgress(Path("/somewhere/very/far/away/from/here/sketches"), 3, 3))
    assert re.search(r"…\S*here/sketches ━+ 3/3", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()))


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_dumb_terminal_gets_plain_lines(term: str, plan: Plan, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", term)
    stream = Terminal()
    progress.follow([Encoding("train", 112, 112, 7), plan, step(30), Done(run)], stream)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "train images: 112 of 112 read, 7 known already"
    assert lines[-1].startswith("stage 1, 30 of 30: loss 1.250")
    assert "\x1b" not in stream.getvalue()
    with open_bar(10, stream) as bar:
        assert isinstance(bar, PipedLines)


def test_results_that_a_program_reads_have_lines_beside_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`predict RUN photos/ | head` shows what `head` writes, with no bar in it; a file leaves room for the bar."""
    monkeypatch.setenv("TERM", "xterm")
    reading, writing = os.pipe()
    with os.fdopen(reading), os.fdopen(writing, "w") as pipe, (tmp_path / "labels.txt").open("w") as file:
        for results, expected in ((pipe, True), (file, False)):
            monkeypatch.setattr(sys, "stdout", results)
            with open_bar(10, Terminal()) as bar:
                assert isinstance(bar, PipedLines) == expected


def test_follow_writes_nothing_to_stdout(plan: Plan, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert progress.follow([plan, step(1), Done(run)]) is run
    out, err = capsys.readouterr()
    assert out == ""
    assert "stage 1, 1 of 30" in err


def test_interrupt_says_how_to_go_on_and_lets_the_run_be_saved(plan: Plan) -> None:
    saved = []

    def events() -> Iterator[Event]:
        try:
            yield plan
            raise KeyboardInterrupt
        finally:
            saved.append(True)

    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        progress.follow(events(), stream)
    assert saved == [True]
    assert f"--output {plan.run} --resume" in stream.getvalue().splitlines()[-1]


def test_interrupt_while_drawing_closes_the_tuning(plan: Plan) -> None:
    """Ctrl-C between two records reaches this program, not the tuning: it must be told to save."""
    saved = []

    def events() -> Iterator[Event]:
        try:
            yield plan
            yield step(1)
        finally:
            saved.append(True)

    class Breaking(io.StringIO):
        def write(self, text: str) -> int:
            if text.startswith("stage"):
                raise KeyboardInterrupt
            return super().write(text)

    with pytest.raises(KeyboardInterrupt):
        progress.follow(events(), Breaking())
    assert saved == [True]
