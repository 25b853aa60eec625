"""Answers at stated rates: thresholds against their definition, and predict and evaluate against plain loops."""

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
from PIL import Image
from tiny_settings import TINY

import sharpzo_mlx as sz
from sharpzo_mlx.cli import main
from sharpzo_mlx.evaluation import folders
from sharpzo_mlx.evaluation.answered import separation
from sharpzo_mlx.evaluation.reports import EVALUATIONS, EvaluationEntry, read_entries
from sharpzo_mlx.heads.answers import choose_sets, distance_limit, score_limit
from sharpzo_mlx.heads.head import Head
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
    """Images that are none of the classes, some of them in folders that are no classes, and a broken one."""
    root, rng = tmp_path_factory.mktemp("strangers") / "<b>& others", np.random.default_rng(4)
    for number in range(11):
        path = root / ("" if number < 5 else "deep/er") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (18, 18, 3), dtype=np.uint8)).save(path)
    (root / "deep" / "broken.png").write_bytes(b"no image")
    return root


def head_of(run: sz.Run) -> Head:
    assert isinstance(run.prompt.head, Head)
    return run.prompt.head


def features(run: sz.Run, paths: list[Path]) -> np.ndarray:
    return np.array(sz.load(run.model_folder).encode_images(paths), np.float64)


def distances(run: sz.Run, paths: list[Path]) -> np.ndarray:
    """Least distance to a class mean, by the definition."""
    white = features(run, paths) @ np.array(head_of(run).guard.whitening, np.float64)
    found: np.ndarray = np.linalg.norm(white[:, None] - np.array(head_of(run).guard.means), axis=2).min(axis=1)
    return found


def probabilities(run: sz.Run, paths: list[Path]) -> np.ndarray:
    x, head = features(run, paths), head_of(run)
    far = (distances(run, paths) - head.guard.centre) / head.guard.spread
    opening = (1 / (1 + np.exp((far - 2) / 0.5)))[:, None]
    zero_shot = run.prompt.logit_scale * x @ np.array(run.prompt.zero_shot_features).T
    logits = (1 - opening) * zero_shot + opening * (x @ np.array(head.weight).T + np.array(head.bias))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return found


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
    assert [one.labels for one in found] == [one.labels for one in sz.predict(run, paths, top=2)]
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


def test_evaluate_measures_the_answers(run: sz.Run, photos: Path, strangers: Path) -> None:
    paths = sorted(photos.glob("*/*.png"))
    labels = np.array([run.prompt.folders.index(path.parent.name) for path in paths])
    report = sz.evaluate(run, photos, foreign=strangers, reject=0.2, coverage=0.7)
    (result,), (foreign,) = report.folders, report.foreign
    found, head = result.answers, head_of(run)
    assert found is not None
    assert (found.stated_rejection, found.stated_coverage) == (0.2, 0.7)
    far = np.sort(np.array(head.distances))[math.ceil(0.8 * (len(head.distances) + 1)) - 1]
    least = np.sort(np.array(head.scores))[math.floor(0.3 * (len(head.scores) + 1)) - 1]
    own, shares = distances(run, paths), probabilities(run, paths)
    assert found.rejected == np.mean(own > far)
    sets = (shares >= least) | (shares == shares.max(axis=1, keepdims=True))
    assert found.coverage == np.mean(sets[range(len(paths)), labels])
    assert found.set_size == pytest.approx(sets.sum(axis=1).mean())
    opening = np.mean(1 / (1 + np.exp(((own - head.guard.centre) / head.guard.spread - 2) / 0.5)))
    assert found.opening == pytest.approx(opening, abs=1e-3)
    others = distances(run, [path for path in sorted(strangers.rglob("*.png")) if path.name != "broken.png"])
    assert (foreign.images, foreign.unreadable) == (11, 1)
    assert foreign.rejected == np.mean(others > far)
    assert foreign.auroc == pytest.approx(np.mean(others[:, None] > own[None]), abs=1e-9)


def test_own_images_are_those_in_distribution(run: sz.Run, photos: Path, strangers: Path, tmp_path: Path) -> None:
    """A shifted folder does not enter the AUROC unless there are none but such."""
    dark = shutil.copytree(photos, tmp_path / "dark")
    for path in dark.glob("*/*.png"):
        Image.fromarray(np.asarray(Image.open(path)) // 2).save(path)
    alone, both, shifted = (
        sz.evaluate(run, place, foreign=[strangers]).foreign[0].auroc for place in ([photos], [photos, dark], [dark])
    )
    assert alone == both
    assert alone != shifted


def test_separation_counts_pairs() -> None:
    rng = np.random.default_rng(1)
    own, foreign = rng.integers(0, 6, 30).astype(np.float32), rng.integers(2, 9, 20).astype(np.float32)
    pairs = (foreign[:, None] > own[None]) + 0.5 * (foreign[:, None] == own[None])
    assert separation(own, foreign) == pytest.approx(pairs.mean())


def test_chunks_change_nothing(run: sz.Run, photos: Path, strangers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sz.evaluate(run, photos, foreign=strangers)
    monkeypatch.setattr(folders, "CHUNK", 5)
    events = list(folders.evaluate_steps(run, photos, foreign=strangers))
    report = events[-1]
    assert isinstance(report, sz.Report)
    before, after = whole.folders[0].answers, report.folders[0].answers
    assert before is not None
    assert after is not None
    assert vars(after) == pytest.approx(vars(before), abs=1e-5)
    assert vars(report.foreign[0].to_entry()) == pytest.approx(vars(whole.foreign[0].to_entry()), abs=1e-5)
    done = [e.done for e in events if isinstance(e, folders.FolderProgress) and e.path == strangers]
    assert done == sorted(done)
    assert done[-1] == 12


def test_the_run_keeps_them(run: sz.Run, photos: Path, strangers: Path, tmp_path: Path) -> None:
    """Measured again, a folder's entry is replaced; entries of an earlier version lack the new fields."""
    copy = sz.Run.load(shutil.copytree(run.folder, tmp_path / "run"))
    (copy.folder / EVALUATIONS).unlink(missing_ok=True)
    for _ in range(2):
        report = sz.evaluate(copy, photos, foreign=strangers, clip=sz.load(run.model_folder))
    own, foreign = read_entries(copy)
    assert own == report.folders[0].to_entry(photos.resolve())
    assert foreign == report.foreign[0].to_entry(strangers.resolve())
    new = vars(report.folders[0].answers)
    old = {name: value for name, value in own.to_json().items() if name not in new}
    (copy.folder / EVALUATIONS).write_text(json.dumps([old]))
    (entry,) = read_entries(copy)
    assert isinstance(entry, EvaluationEntry)
    assert (entry.tuned, entry.rejected) == (report.folders[0].tuned, None)


def test_what_is_no_foreign_folder(
    run: sz.Run, photos: Path, strangers: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    (tmp_path / "empty").mkdir()
    evaluate = ("evaluate", run.folder, photos, "--foreign")
    assert "no such folder" in refused(*evaluate, tmp_path / "absent")
    assert "no images in it" in refused(*evaluate, tmp_path / "empty")
    assert "a file" in refused(*evaluate, photos / "cat" / "0.png")
    (tmp_path / "empty" / "a.png").write_bytes(b"no")
    with pytest.raises(sz.UserError, match="none of 1 images could be read"):
        sz.evaluate(run, photos, foreign=tmp_path / "empty")
    with pytest.raises(sz.UserError, match="an empty path"):
        sz.evaluate(run, photos, foreign="")


def test_evaluate_shows_them(
    run: sz.Run, photos: Path, strangers: Path, tiny_model: Path, tmp_path: Path, capsys: Capture
) -> None:
    words = [str(photos), "--foreign", str(strangers), "--reject", "0.1", "--set-coverage", "0.8"]
    report = sz.evaluate(run, photos, foreign=strangers, reject=0.1, coverage=0.8)
    found = report.folders[0].answers
    assert found is not None
    assert main.run(["evaluate", str(run.folder), *words]) == 0
    table = capsys.readouterr().out
    lines = table[table.index("none of them, and sets") :].splitlines()
    assert "turned away (10 % stated)" in lines[0]
    assert f"{100 * found.rejected:.1f} %" in lines[1]
    assert f"{100 * found.coverage:.1f} %" in lines[1]
    assert lines[2].startswith(f"{strangers} (foreign)")
    assert f"{report.foreign[0].auroc:.3f}" in lines[2]
    assert main.run(["evaluate", str(run.folder), *words, "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["kind"] for row in rows] == ["all 3 classes", "foreign"]
    assert [float(row["rejected"]) for row in rows] == [found.rejected, report.foreign[0].rejected]
    assert (rows[0]["auroc"], float(rows[1]["auroc"])) == ("", report.foreign[0].auroc)
    assert main.run(["evaluate", str(run.folder), *words, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["folders"][0]["set_size"] == found.set_size
    assert record["foreign"] == [report.foreign[0].to_entry().to_json()]
    config = sz.TuneConfig(shots=5, generations=0, steps=0, seed=1).with_settings(TINY)
    other = tune(sz.load(tiny_model), photos, config, output=tmp_path / "other")
    second = sz.evaluate(other, photos, foreign=strangers, reject=0.1)
    assert main.run(["evaluate", str(run.folder), str(other.folder), *words, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    both = np.mean([report.foreign[0].auroc, second.foreign[0].auroc])
    assert record["foreign"][0]["auroc"] == pytest.approx(both)
    assert main.run(["evaluate", str(run.folder), str(other.folder), *words]) == 0
    assert f"{both:.3f} ±" in capsys.readouterr().out


def test_the_page_shows_them(run: sz.Run, photos: Path, strangers: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run.folder, tmp_path / "run")
    sz.evaluate(copy, photos, foreign=strangers)
    page = sz.write_report(copy, landscape=False).read_text(encoding="utf-8")
    assert "None of them, and sets" in page
    assert "&lt;b&gt;&amp; others" in page
    assert "<b>& others" not in page
    assert "no longer exchangeable" in page
    (copy / EVALUATIONS).unlink()
    assert "None of them" not in sz.write_report(copy, landscape=False).read_text(encoding="utf-8")


def test_summary_and_page_say_what_the_head_is_made_of(run: sz.Run, photos: Path, capsys: Capture) -> None:
    from sharpzo_mlx.cli.tune import format_summary

    made_of = run.results.head
    assert made_of is not None
    summary = format_summary(run, photos)
    assert summary.splitlines()[1].startswith("left out ")
    for share in (made_of.text, made_of.image, made_of.named):
        assert f"× {share:.3g}" in summary
    assert main.run(["evaluate", str(run.folder), str(photos)]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.removeprefix(f"{run.folder}: ") in summary
    page = " ".join(sz.write_report(run, landscape=False).read_text(encoding="utf-8").split())
    assert line.partition("tuned: ")[2] in page


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
