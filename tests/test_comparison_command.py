"""The command `compare`: what it prints, the files that it leaves, and failures in one line."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from comparison_runs import break_method, shorten_coop

import sharpzo_mlx as sz
from sharpzo_mlx.cli import main
from sharpzo_mlx.errors import UserError

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _short_coop(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_coop(monkeypatch)


def arguments(model: Path, output: Path, *words: str | Path) -> list[str]:
    options = ["--model", model, "--output", output, "--shots", 4, "--query-budget", 60, "--seeds", 2]
    return ["compare", *map(str, [*words, *options])]


def test_the_command_prints_tables_and_writes_its_folder(
    tiny_model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    other = tmp_path / "others"
    for name in ("cat", "dog", "barn owl"):
        shutil.copytree(photos / name, other / name)
    words: list[str | Path] = ["--methods", "bbt,coop", "--shift", other, "--published"]
    assert main.run(arguments(tiny_model, tmp_path / "out", photos, other, *words)) == 0
    said = capsys.readouterr()
    text = said.out
    assert f"{photos.name}: 3 classes, 12 train, 12 val, 12 test images, 60 queries, 2 seeds" in text
    assert f"mean over {photos.name}, others" in text
    assert len(re.findall(r"^bbt ", text, re.M)) == 6  # as on the command line
    assert text.count("bbt (published)") == 3
    assert "coop* " in text
    assert text.count("needs backpropagation") == 1
    assert "20 of 20" in said.err
    files = {path.name for path in (tmp_path / "out").iterdir()}
    drawn = {f"{d}-{a}.{e}" for d in (photos.name, "others") for a in ("queries", "seconds") for e in ("svg", "png")}
    assert files == {"results", "comparison.json", "comparison.md", *drawn}
    assert "| CoOp* |" in (tmp_path / "out" / "comparison.md").read_text()
    svg = (tmp_path / "out" / "others-queries.svg").read_text()
    assert svg.startswith("<svg")
    assert {"BBT (CMA-ES)", "CoOp"} <= set(re.findall(r">([^<>]+)</text>", svg))
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", svg)

    record = json.loads((tmp_path / "out" / "comparison.json").read_text())
    row = record["datasets"][0]["rows"][1]
    share = [
        c["measurements"]["test"]
        for c in record["datasets"][0]["results"]
        if (c["method"], c["variant"]) == ("bbt", "tuned")
    ]
    assert f"{100 * np.mean(share):.1f} ± {100 * np.std(share, ddof=1):.1f}" in text
    assert row["test"]["mean"] == pytest.approx(np.mean(share))


def test_a_failure_is_told_in_one_line_and_by_the_exit_code(
    tiny_model: Path, photos: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_method(monkeypatch, "bbt", UserError("no luck"))
    words = arguments(tiny_model, tmp_path / "out", photos, "--methods", "bbt", "--json")
    assert main.run(words) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["datasets"][0]["rows"][1]["errors"] == {"0": "no luck", "1": "no luck"}
    assert said.err.strip().splitlines()[-1] == (
        f"error: 2 results failed, the first: bbt (tuned) on {photos.name}, seed 0: no luck; "
        "the same command tries them again"
    )


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--methods", "sharpzero"], "method 'sharpzero': choose among zero-shot, bbt"),
        (["--query-budget", "0"], "query-budget 0: must be at least 1"),
        (["--seeds", "0"], "seeds 0: at least 1"),
    ],
)
def test_a_users_mistake_is_one_line(
    words: list[str], reason: str, tiny_model: Path, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert main.run([*arguments(tiny_model, tmp_path / "out", photos), *words]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_python_and_the_command_leave_the_same_files(
    tiny_model: Path, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    config = sz.TuneConfig(shots=4, query_budget=60)
    sz.compare(sz.load(tiny_model), photos, config, methods="bbt,coop", seeds=2, output=tmp_path / "python")
    shutil.copytree(tmp_path / "python" / "results", tmp_path / "command" / "results")  # with the same times
    assert main.run(arguments(tiny_model, tmp_path / "command", photos, "--methods", "bbt,coop")) == 0
    assert "6 of 6" in capsys.readouterr().err
    assert contents(tmp_path / "python") == contents(tmp_path / "command")
    assert len(contents(tmp_path / "python")) == 6 + 2 + 4  # results, tables, curves


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file of a folder, by its place in it."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
