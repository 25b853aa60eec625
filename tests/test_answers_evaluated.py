"""evaluate measures the answers of a head: figures equal plain loops, and are kept and shown."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from head_answers import distances, head_of, paint_strangers, probabilities
from PIL import Image
from tiny_settings import TINY

import sharpzo_mlx as sz
from sharpzo_mlx.cli import main
from sharpzo_mlx.evaluation import folders
from sharpzo_mlx.evaluation.answered import separation
from sharpzo_mlx.evaluation.foreign import find_images
from sharpzo_mlx.evaluation.reports import EVALUATIONS, EvaluationEntry, read_entries
from sharpzo_mlx.tuning.pipeline import tune

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> sz.Run:
    return sz.Run.load(shutil.copytree(finished_run, tmp_path_factory.mktemp("runs") / "run"))


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint_strangers(tmp_path_factory.mktemp("strangers") / "<b>& others")


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


def test_unsorted_images_of_sort_may_be_foreign(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "unsorted").mkdir()
    (tmp_path / ".sharpzo-sort").mkdir()
    shutil.copy(photos / "cat" / "0.png", tmp_path / "unsorted")
    assert len(find_images(tmp_path / "unsorted")) == 1


def test_own_images_that_are_named_as_foreign_are_counted(
    run: sz.Run, photos: Path, strangers: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sz.evaluate(run, photos, foreign=strangers)
    assert "foreign images are of the classes" not in caplog.text
    drawn = sum(len(rows) for rows in run.record.images.by_split().values())
    other = tmp_path / "other" / photos.name
    shutil.copytree(photos, other)
    sz.evaluate(run, other, foreign=photos)  # those that the run drew
    assert f"{photos}: {drawn} of these" in caplog.text
    caplog.clear()
    sz.evaluate(run, other, foreign=other.parent)  # those that are evaluated beside
    count = len(list(other.glob("*/*.png")))
    assert f"{other.parent}: {count} of these {count} foreign images are of the classes of {run.folder}" in caplog.text


def test_evaluate_shows_them(
    run: sz.Run, photos: Path, strangers: Path, tiny_model: Path, tmp_path: Path, capsys: Capture
) -> None:
    words = [str(photos), "--foreign", str(strangers), "--reject", "0.1", "--set-coverage", "0.8"]
    report = sz.evaluate(run, photos, foreign=strangers, reject=0.1, coverage=0.8)
    found = report.folders[0].answers
    assert found is not None
    assert main.run(["evaluate", str(run.folder), *words]) == 0
    table = capsys.readouterr().out
    lines = table[table.index("none of them, sets") :].splitlines()
    assert lines[1].split() == ["stated", "10", "%", "80", "%"]
    assert f"{100 * found.rejected:.1f} %" in lines[2]
    assert f"{100 * found.coverage:.1f} %" in lines[2]
    assert lines[3].startswith(f"{strangers} (foreign)")
    assert f"{report.foreign[0].auroc:.3f}" in lines[3]
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
    assert summary.splitlines()[1].startswith("left-out images ")
    for share in (made_of.text, made_of.image, made_of.named):
        assert f"× {share:.3g}" in summary
    assert main.run(["evaluate", str(run.folder), str(photos)]) == 0
    *_, name, head, words = capsys.readouterr().out.splitlines()
    assert name == str(run.folder)
    assert f"{head}\n{words}\n" in summary
    page = " ".join(sz.write_report(run, landscape=False).read_text(encoding="utf-8").split())
    assert head.removeprefix("head: ") in page
    assert words.removeprefix("words: ") in page
