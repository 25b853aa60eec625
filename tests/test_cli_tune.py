"""The command `tune` end to end in process: what it prints, what it leaves, and how it continues."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from painted_data import CLASSES, QUICK, paint_photos, save_random_clip
from tiny_settings import EIGHT_FLAGS

from sharpzo_mlx.cli import main
from sharpzo_mlx.cli.tune import format_summary
from sharpzo_mlx.report.head_words import describe_words
from sharpzo_mlx.runs.record import HeadResult
from sharpzo_mlx.runs.run import Run

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_clip(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(autouse=True)
def _quiet_logger() -> Iterator[None]:
    """The handler that the command line installs does not outlive these tests."""
    yield
    logging.getLogger("sharpzo_mlx").handlers.clear()


def test_tune_for_a_reader(model: Path, photos: Path, tmp_path: Path, capsys: Capture) -> None:
    output = tmp_path / "my run"
    words = ["tune", str(photos), "--model", str(model), "--output", str(output), *QUICK]
    assert main.run(words) == 0
    out, err = capsys.readouterr()
    results = json.loads((output / "run.json").read_text())["results"]
    assert f"{100 * results['zero_shot']:.1f} %" in out
    assert f"{100 * results['test']:.1f} %" in out
    assert f"{results['queries']} queries" in out
    assert f"sharpzo-mlx evaluate '{output}' {photos / 'test'}" in out
    assert "stage 1, 1 of" in err
    assert "test images: 19 of 19 read" in err
    run = Run.load(output)
    row = next(line for line in out.splitlines() if line.startswith("validation "))
    made_of = HeadResult("gda", text=0.25, image=0.5, named=0.125, words_kept=False)
    run.current_results = replace(run.results, head=made_of)
    other = next(line for line in format_summary(run, photos).splitlines() if line.startswith("left-out images "))
    assert other.split()[2:] == row.split()[1:]


@pytest.mark.parametrize(
    ("kept", "gain", "error", "said"),
    [
        (False, None, None, "plain, not searched"),
        (False, 0.0, 0.0, "plain, the search found none"),
        (False, 0.01, 0.02, "plain, tuned ones are no clear gain: validation loss -0.010 ± 0.020"),
        (False, -0.01, 0.02, "plain, tuned ones are no clear gain: validation loss +0.010 ± 0.020"),
        (True, 0.05, 0.02, "tuned, validation loss -0.050 ± 0.020"),
    ],
)
def test_it_is_said_why_words_are_plain_or_tuned(
    kept: bool, gain: float | None, error: float | None, said: str
) -> None:
    made_of = HeadResult("gda", text=1, image=1, named=1, words_kept=kept, words_gain=gain, words_error=error)
    assert said in describe_words(made_of)


def test_the_next_command_names_no_folder_without_classes(
    model: Path, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    for name in ("train", "val"):
        shutil.copytree(photos / name, tmp_path / "data" / name)
    (tmp_path / "data" / "test").mkdir()
    shutil.copy(photos / "test" / "red" / "0.png", tmp_path / "data" / "test" / "unlabelled.png")
    words = ["tune", str(tmp_path / "data"), "--model", str(model), "--output", str(tmp_path / "r"), *QUICK]
    assert main.run(words) == 0
    out, err = capsys.readouterr()
    assert f"sharpzo-mlx evaluate {tmp_path / 'r'} FOLDER" in out
    assert "data: test: beside the splits, so left out" in err


def test_tune_for_a_script(model: Path, photos: Path, tmp_path: Path, capsys: Capture) -> None:
    words = ["tune", str(photos), "--model", str(model), "--output", str(tmp_path / "r"), "--json", *QUICK]
    assert main.run(words) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    record = json.loads(out)
    assert list(record) == ["run", "zero_shot", "val", "test", "queries", "seconds", "peak_memory_mb"]
    assert record["run"] == str(tmp_path / "r")
    assert 0 < record["queries"] <= 60
    for share in (record["zero_shot"], record["test"]):  # 18 readable images
        assert share * 18 == pytest.approx(round(share * 18))
    assert err != ""
    assert main.run(words) == 2  # never over a run that is there
    assert "--resume" in capsys.readouterr().err
    assert main.run([*words, "--resume"]) == 0  # it is finished: the same answer, no work
    again = json.loads(capsys.readouterr().out)
    assert again == record


def test_tune_without_a_test_split_says_null(model: Path, photos: Path, tmp_path: Path, capsys: Capture) -> None:
    """Five images a class, four for training and one for validation: nothing is left to test on."""
    data = tmp_path / "few"
    for name in CLASSES:
        (data / name).mkdir(parents=True)
        for number in range(5):
            source = photos / "test" / name / f"{number}.png"
            (data / name / source.name).write_bytes(source.read_bytes())
    words = ["tune", str(data), "--model", str(model), "--output", str(tmp_path / "r"), "--shots", "4"]
    assert main.run([*words, "--json", *QUICK]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["test"] is None
    assert record["val"] is not None


INTERRUPTED = """
import os, signal, sys
from sharpzo_mlx.cli.main import run
from sharpzo_mlx.tuning.search import Search

plain, saved = Search.state, 0

def state(search):
    global saved
    saved += 1
    if saved == 100:
        os.kill(os.getpid(), signal.SIGINT)
    return plain(search)

Search.state = state
sys.exit(run(sys.argv[1:]))
"""
SAME = ("zero_shot", "val", "test", "queries")


def test_interrupted_tune_is_usable_and_goes_on(model: Path, photos: Path, tmp_path: Path, capsys: Capture) -> None:
    """Ctrl-C in a process of its own: 130, a way on, a run that evaluates, and in the end the undisturbed result."""
    options = [
        "--query-budget",
        "1600",
        *EIGHT_FLAGS,
        "--steps",
        "1200",
        "--json",
        "--no-report",
    ]
    words = ["tune", str(photos), "--model", str(model), *options]
    output = ["--output", str(tmp_path / "r")]
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED, *words, *output], stderr=subprocess.PIPE, text=True)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"--output {tmp_path / 'r'} --resume continues the run" in err
    assert "Traceback" not in err
    assert main.run(["evaluate", str(tmp_path / "r"), str(photos / "val"), "--json"]) == 0
    assert main.run([*words, *output, "--resume"]) == 0
    assert main.run([*words, "--output", str(tmp_path / "undisturbed")]) == 0
    _, resumed, undisturbed = map(json.loads, capsys.readouterr().out.splitlines())
    assert {k: resumed[k] for k in SAME} == {k: undisturbed[k] for k in SAME}


def test_a_failed_tune_leaves_nothing(model: Path, tmp_path: Path, capsys: Capture) -> None:
    words = ["tune", str(tmp_path / "absent"), "--model", str(model), "--output", str(tmp_path / "r"), *QUICK]
    assert main.run(words) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "r").exists()


def test_no_model_names_the_command_that_makes_one(photos: Path, capsys: Capture) -> None:
    assert main.run(["tune", str(photos), *QUICK]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "sharpzo-mlx convert" in err
