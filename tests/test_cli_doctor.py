"""The command `doctor`: every check, and the remedy of each problem."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from sharpzo_mlx.cli import main
from sharpzo_mlx.doctor import setup
from sharpzo_mlx.doctor.findings import Finding
from sharpzo_mlx.files import CACHE_VARIABLE, default_model_folder
from sharpzo_mlx.runtime import precision, startup
from sharpzo_mlx.runtime.device import on_cpu

Capture = pytest.CaptureFixture[str]


ON_CPU = on_cpu()


@pytest.fixture(autouse=True)
def _quiet_logger() -> Iterator[None]:
    """The handler that the command line installs does not outlive these tests."""
    yield
    logging.getLogger("sharpzo_mlx").handlers.clear()


def findings(capsys: Capture) -> dict[str, dict[str, Any]]:
    return {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}


def test_doctor_reports_every_check_and_exits_0(capsys: Capture) -> None:
    assert main.run(["doctor", "--quick", "--json"]) == 0
    found = findings(capsys)
    assert len(found) == len(setup.CHECKS) - len(setup.LONG_CHECKS)
    assert "GFLOP/s" in found["products"]["words"]
    assert startup.blas in found["products"]["words"] or not ON_CPU
    assert "MLX_ENABLE_TF32=0" in found["precision"]["words"]
    assert found["default model"]["remedy"].startswith("sharpzo-mlx convert")
    assert main.run(["doctor", "--quick"]) == 0
    shown = capsys.readouterr().out
    assert "-> sharpzo-mlx convert" in shown
    assert all(name in shown for name in found)


def test_doctor_sees_the_default_model_and_the_caches(tiny_model: Path, capsys: Capture) -> None:
    default_model_folder().parent.mkdir(parents=True)
    default_model_folder().symlink_to(tiny_model)
    assert main.run(["doctor", "--quick", "--json"]) == 0
    found = findings(capsys)
    assert found["default model"]["remedy"] is None
    assert str(default_model_folder()) in found["default model"]["words"]
    assert str(default_model_folder().parents[1]) in found["caches"]["words"]


@pytest.mark.parametrize("below", ["", "below/it"])
def test_doctor_sees_that_the_caches_place_is_a_file(
    below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file" / below))
    assert main.run(["doctor", "--quick", "--json"]) == 0
    found = findings(capsys)["caches"]
    assert f"{tmp_path / 'file'} is not a folder" in found["words"]
    assert CACHE_VARIABLE in found["remedy"]


def test_doctor_names_each_problem_with_its_remedy(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(startup, "blas", "reference")
    monkeypatch.setattr(precision, "product_error", lambda: 3e-4)
    monkeypatch.setattr(setup, "is_importable", lambda name: False)
    monkeypatch.delenv(startup.BLAS_SWITCH, raising=False)
    assert main.run(["doctor", "--quick", "--json"]) == 0  # slower and poorer, not broken
    found = findings(capsys)
    if ON_CPU:
        assert "libopenblas0-pthread" in found["products"]["remedy"]
    assert "MLX_ENABLE_TF32=0" in found["precision"]["remedy"]
    assert "pip install mlx-data" in found["mlx-data"]["remedy"]
    assert "pip install pillow-heif" in found["pillow-heif"]["remedy"]


def test_doctor_gets_to_the_end_of_a_broken_machine(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no device")

    monkeypatch.setattr(mx, "default_device", broken)
    assert main.run(["doctor", "--quick"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("FAIL") and "no device" in line for line in lines)
    assert any("pillow-heif" in line for line in lines)


def test_doctor_breaks_lines_between_words_on_a_screen(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(setup, "CHECKS", [lambda: Finding("a query", "word-of-12c " * 20, "sharpzo-mlx convert")])
    monkeypatch.setattr(setup, "LONG_CHECKS", ())
    assert main.run(["doctor"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2  # whole in a pipe
    monkeypatch.setenv("COLUMNS", "80")
    assert main.run(["doctor"]) == 0
    first, second, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("note  a query        word-of-12c ")
    assert second.startswith(" " * 21 + "word-of-12c ")
    assert max(len(first), len(second)) <= 80
    assert last == " " * 21 + "-> sharpzo-mlx convert"
