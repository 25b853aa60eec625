"""Answers at stated rates: thresholds against their definition, and predict against plain loops."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from head_answers import distances, features, head_of, paint_strangers, probabilities
from tiny_settings import TINY

import sharpzo_mlx as sz
from sharpzo_mlx.cli import main
from sharpzo_mlx.heads.answers import choose_sets, distance_limit, score_limit
from sharpzo_mlx.tuning.pipeline import tune

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> sz.Run:
    return sz.Run.load(shutil.copytree(finished_run, tmp_path_factory.mktemp("runs") / "run"))


@pytest.fixture(scope="module")
def plain(tiny_model: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> sz.Run:
    """A run without a head."""
    config = sz.TuneConfig(shots=4, generations=2, steps=0, head="none").with_settings(TINY)
    return tune(sz.load(tiny_model), photos, config, output=tmp_path_factory.mktemp("runs") / "plain")


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint_strangers(tmp_path_factory.mktemp("strangers") / "<b>& others")


@pytest.mark.parametrize("images", [1, 9, 10, 19, 20, 99, 140])
@pytest.mark.parametrize("percent", [1, 5, 10, 30, 50, 95])
def test_thresholds_are_the_order_statistics(images: int, percent: int) -> None:
    """Whole numbers of per cent, counted without rounding: 1 - 0.9 is a tenth here."""
    values = np.arange(1, images + 1, dtype=np.float32)
    upper = -(-(100 - percent) * (images + 1) // 100)  # rounded up
    lower = percent * (images + 1) // 100
    assert distance_limit(values, percent / 100) == (upper if upper <= images else math.inf)
    assert score_limit(values, (100 - percent) / 100) == lower  # the n-th value is n, and 0 admits all
    assert score_limit(values, 1 - percent / 100) in (lower, lower - 1, lower + 1)


def test_stated_rates_hold_for_images_of_the_same_kind() -> None:
    """Over many draws of left-out and new images, no more are turned away than stated, and hardly fewer."""
    rng = np.random.default_rng(0)
    for images, rate in ((19, 0.05), (40, 0.1), (40, 0.3)):
        away, held = [], []
        for _ in range(4000):
            seen, new = np.sort(rng.gamma(2.0, size=images)), rng.gamma(2.0, size=20)
            away.append((new > distance_limit(seen, rate)).mean())
            held.append((new >= score_limit(seen, 1 - rate)).mean())
        assert rate - 1 / (images + 1) - 0.005 < np.mean(away) < rate + 0.005
        assert 1 - rate - 0.005 < np.mean(held) < 1 - rate + 1 / (images + 1) + 0.005


def test_a_set_holds_the_most_probable_label_at_least() -> None:
    shares = np.array([[0.2, 0.5, 0.3], [0.4, 0.35, 0.25]])
    assert choose_sets(shares, 0.3).tolist() == [[False, True, True], [True, True, False]]
    assert choose_sets(shares, 0.9).tolist() == [[False, True, False], [True, False, False]]
    assert choose_sets(shares, 0.0).all()


def test_predict_turns_images_away_and_keeps_their_labels(run: sz.Run, photos: Path, strangers: Path) -> None:
    paths = [*sorted(photos.glob("*/*.png")), *sorted(strangers.rglob("*.png"))]
    paths = [path for path in paths if path.name != "broken.png"]
    limit = np.sort(np.array(head_of(run).distances))[math.ceil(0.7 * (len(head_of(run).distances) + 1)) - 1]
    found = sz.predict(run, paths, top=2, reject=0.3)
    wanted = distances(run, paths) > limit
    assert [one.rejected for one in found] == wanted.tolist()
    assert 0 < wanted.sum() < len(paths)
    for one, plain in zip(found, sz.predict(run, paths, top=2), strict=True):  # now from the cache, in other batches
        assert [label for label, _ in one.labels] == [label for label, _ in plain.labels]
        assert [share for _, share in one.labels] == pytest.approx([share for _, share in plain.labels], abs=1e-6)
    assert not any(one.rejected for one in sz.predict(run, paths))


def test_predict_gives_the_labels_of_the_set(run: sz.Run, photos: Path) -> None:
    paths = sorted(photos.glob("*/*.png"))
    scores = np.sort(np.array(head_of(run).scores))
    least, shares = scores[math.floor(0.1 * (len(scores) + 1)) - 1], probabilities(run, paths)
    for one, row in zip(sz.predict(run, paths, coverage=0.9), shares, strict=True):
        wanted = {run.prompt.class_names[k] for k in range(3) if row[k] >= least or row[k] == row.max()}
        assert {label for label, _ in one.labels} == wanted
        assert [p for _, p in one.labels] == sorted((p for _, p in one.labels), reverse=True)
    assert all(len(one.labels) == 3 for one in sz.predict(run, paths[:3], coverage=0.999))


def test_predict_in_all_styles(run: sz.Run, photos: Path, capsys: Capture) -> None:
    paths = sorted(photos.glob("*/*.png"))
    found = sz.predict(run, paths, reject=0.5)
    away = next(one for one in found if one.rejected)
    words = ["predict", str(run.folder), *map(str, paths), "--reject", "0.5"]
    assert main.run(words) == 0
    label, share = away.labels[0]
    assert f"{away.path}: none of them ({label} {100 * share:.1f} %)\n" in capsys.readouterr().out
    assert main.run([*words, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)["predictions"]
    assert [one["rejected"] for one in record] == [one.rejected for one in found]
    assert all(one["labels"] for one in record)
    assert main.run([*words, "--csv", "--set-coverage", "0.999"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 3 * len(paths)
    assert [row["rejected"] for row in rows[::3]] == [str(int(one.rejected)) for one in found]


def test_too_few_left_out_images_are_said(run: sz.Run, photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    (one,) = sz.predict(run, photos / "cat" / "0.png", reject=0.001, coverage=0.999)
    assert not one.rejected
    first, second = (record.message for record in caplog.records)
    assert f"{len(head_of(run).distances)} left-out images are too few for --reject 0.001" in first
    assert "sets hold all labels" in second


@pytest.mark.parametrize("rate", [0.0, 1.0, 5.0, -0.1, math.nan])
def test_what_is_no_rate(rate: float, run: sz.Run, photos: Path, refused: Callable[..., str]) -> None:
    image = photos / "cat" / "0.png"
    with pytest.raises(sz.UserError, match=r"reject .*: must be above 0 and below 1, such as 0\.05"):
        sz.predict(run, image, reject=rate)
    with pytest.raises(sz.UserError, match=r"set coverage .*: must be above 0 and below 1, such as 0\.95"):
        sz.evaluate(run, photos, coverage=rate)
    line = refused("predict", run.folder, image, f"--reject={rate}")
    assert f"reject {rate:g}: must be above 0 and below 1" in line


def test_a_run_without_a_head(
    plain: sz.Run, photos: Path, strangers: Path, refused: Callable[..., str], capsys: Capture
) -> None:
    for options in (["--reject", "0.05"], ["--set-coverage", "0.9"]):
        assert "tune with the default --head" in refused("predict", plain.folder, photos / "cat" / "0.png", *options)
    assert str(plain.folder) in refused("evaluate", plain.folder, photos, "--foreign", strangers)
    (result,) = sz.evaluate(plain, photos).folders
    assert (result.answers, result.distances) == (None, None)
    assert "rejected" not in result.to_entry().to_json()
    assert main.run(["evaluate", str(plain.folder), str(photos)]) == 0
    assert "none of them" not in capsys.readouterr().out


def test_the_formula_of_the_documents_is_the_classifier(run: sz.Run, photos: Path) -> None:
    """The example of docs/reference/files.md, carried out on a run's own file."""
    text = (Path(__file__).parents[1] / "docs" / "reference" / "files.md").read_text(encoding="utf-8")
    code = text.partition("```python\n")[2].partition("```")[0]
    assert "head_weight" in code
    paths = sorted(photos.glob("*/*.png"))
    names: dict[str, Any] = {"path": run.folder / "prompt.safetensors", "x": features(run, paths).astype(np.float32)}
    exec(code, names)
    np.testing.assert_allclose(names["probabilities"], probabilities(run, paths), atol=1e-4)
    found = sz.predict(run, paths, reject=0.05)
    assert np.array(names["rejected"]).tolist() == [one.rejected for one in found]
    assert names["best"] == [one.labels[0][0] for one in found]
