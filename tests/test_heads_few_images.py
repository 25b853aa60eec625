"""A head that learns from few images: views of them, and classes of one image, which cannot be left out."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from painted_data import paint_overlapping
from plain_logits import classify
from tiny_settings import TINY

import sharpzo_mlx as sz
from sharpzo_mlx.cli import main
from sharpzo_mlx.runs.run import Run
from sharpzo_mlx.tuning.encoding import Encoding
from sharpzo_mlx.tuning.pipeline import tune, tune_steps

STILL = sz.TuneConfig(shots=4, steps=0).with_settings(TINY)
FILE = "prompt.safetensors"


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint_overlapping(tmp_path_factory.mktemp("hard") / "photos")


@pytest.fixture
def clip(tiny_model: Path) -> sz.Clip:
    return sz.load(tiny_model)


@pytest.mark.parametrize(
    ("shots", "views", "expected"), [(4, None, True), (7, None, False), (4, 0, False), (7, 2, True)]
)
def test_views_are_for_few_images_or_where_they_are_asked_for(
    shots: int, views: int | None, expected: bool, clip: sz.Clip, hard: Path, tmp_path: Path
) -> None:
    """Four shots and four validation images a class are few, seven and four are not."""
    config = dataclasses.replace(STILL, shots=shots, views=views)
    seen = [event for event in tune_steps(clip, hard, config, output=tmp_path / "run") if isinstance(event, Encoding)]
    shown = [event for event in seen if event.split == "views of"]
    assert bool(shown) == expected
    if expected:
        assert shown[-1].done == shown[-1].total == 3 * (shots + 4)
        plain = tune(clip, hard, dataclasses.replace(config, views=0), output=tmp_path / "plain")
        assert (tmp_path / "run" / FILE).read_bytes() != (plain.folder / FILE).read_bytes()


@pytest.fixture
def single(hard: Path, tmp_path: Path) -> Path:
    """One image a class."""
    for name in ("cat", "dog", "barn owl"):
        (tmp_path / "single" / name).mkdir(parents=True)
        shutil.copy(hard / name / "1.png", tmp_path / "single" / name)
    return tmp_path / "single"


@pytest.mark.parametrize("search", [[], ["--steps", "4"]])
def test_one_image_a_class(
    search: list[str], single: Path, tiny_model: Path, hard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No image can be left out, so nothing is tuned or measured; the head is there and the commands work."""
    words = ["tune", str(single), "--model", str(tiny_model), "--shots", "1", "--output", str(tmp_path / "run")]
    assert main.run([*words, *search]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"left-out images +[0-9.]+ % +- +-\n", out)
    assert "each left out in turn" not in err
    assert err.count("the words are not tuned") == (1 if search else 0)
    assert err.count("with one image a class none can be left out") == 1
    assert "not above zero-shot" not in err
    run = Run.load(tmp_path / "run")
    assert run.results.val == run.results.zero_shot_val
    assert run.results.test is None
    assert run.results.head is not None
    assert (run.results.head.words_kept, run.results.head.words_gain, run.results.queries) == (False, None, 0)
    x = np.array(sz.load(tiny_model).encode_images(sorted(single.glob("*/*"))))
    assert np.isfinite(classify(run.folder, x)).all()
    assert main.run([*words, *search, "--resume"]) == 0
    assert main.run(["evaluate", str(run.folder), str(hard)]) == 0
    assert main.run(["predict", str(run.folder), str(hard / "cat" / "2.png")]) == 0
    assert (run.folder / "report.html").is_file()


def test_one_training_image_a_class_beside_others(
    clip: sz.Clip, hard: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One shot has one validation image a class: no search either, and a notice only where one was asked for."""
    for name, steps in (("default", None), ("asked", 4)):
        caplog.clear()
        config = dataclasses.replace(STILL, shots=1, steps=steps)
        run = tune(clip, hard, config, output=tmp_path / name)
        assert caplog.text.count("one training image a class, so the words are not tuned") == (steps is not None)
        assert run.results.head is not None
        assert not run.results.head.words_kept
        assert run.results.val * 6 == pytest.approx(round(run.results.val * 6))


def test_what_is_not_above_zero_shot_is_said(
    clip: sz.Clip, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, hard: Path
) -> None:
    """Classes that are told apart by nothing: the same images in all of them."""
    for name in ("cat", "dog", "barn owl"):
        (tmp_path / "same" / name).mkdir(parents=True)
        for number in range(8):
            shutil.copy(photos / "cat" / f"{number}.png", tmp_path / "same" / name)
    run = tune(clip, tmp_path / "same", STILL, output=tmp_path / "run")
    assert run.results.val <= run.results.zero_shot_val
    assert f"{run.folder}: not above zero-shot on images it had not seen" in caplog.text
    caplog.clear()
    tune(clip, hard, STILL, output=tmp_path / "better")
    assert "not above zero-shot" not in caplog.text
