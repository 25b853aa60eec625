"""Figures of classifiers against a few independent lines of NumPy: plain folders, -A's rule, -C trees, mappings."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from plain_logits import classify

import sharpzo_mlx as sz
from sharpzo_mlx.cli import main
from sharpzo_mlx.datasets.evaluation_sets import EvaluationSet
from sharpzo_mlx.datasets.image_set import ImageSet
from sharpzo_mlx.evaluation import folders
from sharpzo_mlx.evaluation.metrics import (
    Outcomes,
    calibration_error,
    difference_interval,
    find_outcomes,
    measure,
    pooled_interval,
)
from sharpzo_mlx.tuning.pipeline import tune

CLASSES = ("barn owl", "cat", "dog")


@pytest.fixture(scope="module")
def run(tiny_model: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> sz.Run:
    config = sz.TuneConfig(shots=4, generations=20, steps=0).with_settings(
        {"space.dimension": 16, "stage1.population": 6, "space.relative_scale": 20.0}
    )
    return tune(sz.load(tiny_model), photos, config, output=tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def shifted(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same classes under another light, and a folder for each way of naming them."""
    from PIL import Image

    root = tmp_path_factory.mktemp("shifted")
    for place, factor in (("plain", 0.6), ("c/dark/1", 0.7), ("c/dark/2", 0.3), ("c/inverse/1", -1.0)):
        for path in sorted(photos.glob("*/*.png")):
            target = root / place / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.asarray(Image.open(path)).astype(float)
            Image.fromarray((pixels * factor if factor > 0 else 255 - pixels).astype(np.uint8)).save(target)
    for number, name in enumerate(CLASSES):
        shutil.copytree(root / "plain" / name, root / "numbers" / str(number))
    shutil.copytree(root / "plain" / "cat", root / "pets" / "felines")
    shutil.copytree(root / "plain" / "dog", root / "pets" / "canines")
    (root / "map.json").write_text('{"felines": ["cat", "barn owl"], "canines": "dog"}')
    return root


def logits(run: sz.Run, paths: list[Path], *, tuned: bool) -> np.ndarray:
    return classify(run.folder, np.array(sz.load(run.model_folder).encode_images(paths)), tuned=tuned)


def protocol(run: sz.Run, folder: Path, owner: dict[str, list[int]], compete: list[int], *, tuned: bool) -> float:
    """Accuracy by the plainest loop: an image is right when its best competing class is one of its folder's."""
    right = []
    paths = sorted(folder.glob("*/*.png"))
    for path, row in zip(paths, logits(run, paths, tuned=tuned), strict=True):
        right.append(max(compete, key=lambda k: row[k]) in owner[path.parent.name])
    return float(np.mean(right))


PLAIN = {name: [k] for k, name in enumerate(CLASSES)}
EVERY = [0, 1, 2]


@pytest.mark.parametrize(
    ("folder", "owner", "compete", "options"),
    [
        ("plain", PLAIN, EVERY, {}),
        ("numbers", {str(k): [k] for k in range(3)}, EVERY, {}),
        ("c", None, EVERY, {}),
        ("pets", {"felines": [1, 0], "canines": [2]}, EVERY, {"mapping": "map.json"}),
    ],
)
def test_accuracies_are_those_of_a_plain_loop(
    folder: str, owner: dict[str, list[int]] | None, compete: list[int], options: dict[str, str], *,
    run: sz.Run, shifted: Path,
) -> None:  # fmt: skip
    mapping = shifted / options["mapping"] if options else None
    (result,) = sz.evaluate(run, [shifted / folder], mapping=mapping).folders
    if owner is None:
        leaves = sorted(shifted.glob("c/*/*"))
        parts = [(p.corruption, p.severity, p.zero_shot, p.tuned) for p in result.parts]
        wanted = [[protocol(run, leaf, PLAIN, compete, tuned=tuned) for tuned in (False, True)] for leaf in leaves]
        assert parts == [(leaf.parent.name, leaf.name, *pair) for leaf, pair in zip(leaves, wanted, strict=True)]
        assert (result.zero_shot, result.tuned) == pytest.approx(tuple(np.mean(wanted, axis=0)))
    else:
        assert result.zero_shot == protocol(run, shifted / folder, owner, compete, tuned=False)
        assert result.tuned == protocol(run, shifted / folder, owner, compete, tuned=True)
    assert not result.in_distribution


def test_own_classes_compete_alone(run: sz.Run, shifted: Path, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        shutil.copytree(shifted / "plain" / name, tmp_path / name)
    for scope, compete in (("own", [1, 2]), ("all", EVERY)):
        (result,) = sz.evaluate(run, tmp_path, scope=scope).folders
        assert result.tuned == protocol(run, tmp_path, PLAIN, compete, tuned=True)
        assert result.zero_shot == protocol(run, tmp_path, PLAIN, compete, tuned=False)


def test_chunks_change_nothing(run: sz.Run, shifted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sz.evaluate(run, shifted / "c")
    monkeypatch.setattr(folders, "CHUNK", 5)
    events = list(folders.evaluate_steps(run, shifted / "c"))
    (one,), (other,) = whole.folders, events[-1].folders if isinstance(events[-1], sz.Report) else ()
    for name in ("images", "zero_shot", "tuned", "interval", "classes", "parts"):
        assert getattr(one, name) == getattr(other, name), name
    done = [event.done for event in events if isinstance(event, folders.FolderProgress)]
    assert done == sorted(done)
    assert done[-1] == 108 == next(e for e in events if isinstance(e, folders.FolderProgress)).total


def random_case(classes: int, images: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, EvaluationSet]:
    draw = np.random.default_rng(seed)
    embeddings, classifier = draw.normal(size=(images, 12)), draw.normal(size=(classes, 12))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    labels = draw.integers(0, classes, images)
    names = tuple(map(str, range(classes)))
    scored = EvaluationSet(ImageSet((), (), names, names), np.arange(classes), np.arange(classes), "")
    return embeddings, labels, classifier, scored


def test_figures_against_plain_loops() -> None:
    embeddings, labels, classifier, scored = random_case(9, 400, 0)
    outcomes = find_outcomes(3.0 * embeddings @ classifier.T, labels, scored)
    figures = measure(outcomes, labels)
    right, top5, confidence = [], [], []
    for row, label in zip(3.0 * embeddings @ classifier.T, labels, strict=True):
        order = sorted(range(9), key=lambda k: -row[k])
        share = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        right.append(order[0] == label)
        top5.append(label in order[:5])
        confidence.append(share[order[0]])
    assert figures.top1 == np.mean(right)
    assert figures.top5 == np.mean(top5)
    assert figures.per_class == pytest.approx(np.mean([np.mean(np.array(right)[labels == k]) for k in range(9)]))
    ece = 0.0
    for low in np.arange(15) / 15:
        inside = [i for i, c in enumerate(confidence) if low <= c < low + 1 / 15]
        if inside:
            gap = np.mean([right[i] for i in inside]) - np.mean([confidence[i] for i in inside])
            ece += len(inside) / 400 * abs(gap)
    assert figures.ece == pytest.approx(ece, abs=1e-6)
    assert calibration_error(outcomes) == figures.ece


def test_intervals_are_those_of_resampled_images() -> None:
    draw = np.random.default_rng(3)
    before = draw.random(300) < 0.5
    after = np.where(draw.random(300) < 0.15, ~before, before) | (draw.random(300) < 0.1)
    blank = np.zeros(300, dtype=np.float32)
    low, high = difference_interval(*(Outcomes(r, r, blank, blank.astype(np.int32)) for r in (before, after)))
    rows = draw.integers(0, 300, (20_000, 300))
    wanted = np.percentile(after[rows].mean(axis=1) - before[rows].mean(axis=1), (2.5, 97.5))
    np.testing.assert_allclose((low, high), wanted, atol=0.006)
    assert low < after.mean() - before.mean() < high
    # pairing matters: resampled apart, the interval is far wider
    apart = np.percentile(after[rows].mean(axis=1) - before[rows[::-1]].mean(axis=1), (2.5, 97.5))
    assert high - low < 0.8 * (apart[1] - apart[0])


Show = Callable[..., str]


@pytest.fixture
def show(run: sz.Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Show:
    """Run `evaluate` on a wide screen."""
    monkeypatch.setenv("COLUMNS", "400")

    def shown(*words: str | Path) -> str:
        assert main.run(["evaluate", str(run.folder), *map(str, words)]) == 0
        return capsys.readouterr().out

    return shown


def test_the_table_sets_the_shifted_folders_apart(show: Show, run: sz.Run, photos: Path, shifted: Path) -> None:
    lines = show(shifted / "plain", photos, shifted / "c").splitlines()
    assert [line.split()[0] for line in lines[1:4]] == [str(photos), str(shifted / "plain"), str(shifted / "c")]
    report = sz.evaluate(run, [shifted / "plain", photos, shifted / "c"])
    before, after = report.folders[1].zero_shot_metrics, report.folders[1].tuned_metrics
    assert f"{100 * before.ece:.1f} -> {100 * after.ece:.1f} %" in lines[1]  # calibration of both
    mean = np.mean([report.folders[0].tuned, report.folders[2].tuned])
    assert lines[4].startswith("mean of shifted")
    assert f"{100 * mean:.1f} %" in lines[4]
    assert ("below zero-shot" in lines[3]) == (report.folders[2].tuned < report.folders[2].zero_shot)
    assert "severity 1" in "\n".join(lines)


def test_several_runs_give_mean_and_spread(
    show: Show, run: sz.Run, tiny_model: Path, photos: Path, shifted: Path, tmp_path: Path
) -> None:
    config = sz.TuneConfig(shots=4, generations=20, steps=0, seed=1).with_settings(
        {"space.dimension": 16, "stage1.population": 6, "space.relative_scale": 20.0}
    )
    other = tune(sz.load(tiny_model), photos, config, output=tmp_path / "other")
    record = json.loads(show(other.folder, shifted / "plain", "--json"))
    accuracies = [sz.evaluate(one, shifted / "plain").tuned for one in (run, other)]
    assert record["folders"][0]["tuned"] == pytest.approx(np.mean(accuracies))
    assert record["folders"][0]["tuned_sd"] == pytest.approx(np.std(accuracies, ddof=1))
    assert [entry["run"] for entry in record["runs"]] == [str(run.folder), str(other.folder)]
    assert "±" in show(other.folder, shifted / "plain")


def test_csv_has_a_line_for_everything(show: Show, shifted: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(show(shifted / "plain", shifted / "c", "--csv"))))
    assert [row["severity"] for row in rows] == ["", "", "1", "2", "1"]
    record = json.loads(show(shifted / "plain", shifted / "c", "--json"))
    assert [float(row["tuned"]) for row in rows[:2]] == [folder["tuned"] for folder in record["folders"]]
    assert float(rows[3]["tuned"]) == record["folders"][1]["parts"][1]["tuned"]


def test_runs_without_a_folder(run: sz.Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["evaluate", str(run.folder), str(run.folder)]) == 2
    assert "behind the runs" in capsys.readouterr().err


def test_the_interval_of_several_runs_resamples_images() -> None:
    """One run gives its own interval; of several, what a bootstrap over rows of images gives."""
    rng = np.random.default_rng(3)
    changes = [rng.integers(-1, 2, 150, dtype=np.int8) for _ in range(3)]
    mean = np.mean(changes, axis=0)
    plain = [mean[rng.integers(0, 150, 150)].mean() for _ in range(4000)]
    assert pooled_interval(changes) == pytest.approx(tuple(np.percentile(plain, (2.5, 97.5))), abs=0.012)
    same = [changes[0]] * 3  # runs that agree say no more than one
    assert pooled_interval(same) == pytest.approx(pooled_interval(changes[:1]))
