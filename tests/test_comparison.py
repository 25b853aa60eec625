"""The runner of comparisons: equal terms for all, failures that stay alone, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from comparison_runs import CONFIG, break_method, shorten_coop

import sharpzo_mlx as sz
from sharpzo_mlx.comparison.dataset_runner import Finished
from sharpzo_mlx.comparison.methods import registry
from sharpzo_mlx.comparison.methods.classifiers import CosineClassifier
from sharpzo_mlx.comparison.methods.method import Method, Progress, Steps, Task
from sharpzo_mlx.comparison.record import Comparison
from sharpzo_mlx.comparison.runner import compare, compare_steps
from sharpzo_mlx.comparison.sources import name_folders
from sharpzo_mlx.datasets.splits import draw_split
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.objective.loss import Score, score_features
from sharpzo_mlx.tuning.pipeline import tune


@pytest.fixture
def clip(tiny_model: Path) -> sz.Clip:
    return sz.load(tiny_model)


@pytest.fixture(autouse=True)
def _short_coop(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_coop(monkeypatch)


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Task]]:
    """Every start of a method from now on, with its task."""
    seen: list[tuple[str, Task]] = []
    plain = registry.method

    def watched(name: str) -> Method:
        method = plain(name)

        def start(task: Task, options: Mapping[str, Any]) -> Steps:
            seen.append((name, task))
            return method.start(task, options)

        return replace(method, start=start)

    monkeypatch.setattr(registry, "method", watched)
    return seen


def test_all_methods_meet_on_equal_terms(
    clip: sz.Clip, photos: Path, tmp_path: Path, tasks: list[tuple[str, Task]]
) -> None:
    found = compare(clip, photos, CONFIG, methods="bbt,coop", seeds=2, output=tmp_path / "out")
    assert [name for name, _ in tasks] == ["zero-shot", "bbt", "coop"] * 2
    for seed in (0, 1):
        own = [task for _, task in tasks if task.config.seed == seed]
        assert {(task.train.paths, task.val.paths, task.query_budget) for task in own} == {
            (own[0].train.paths, own[0].val.paths, 40)
        }
        run = tune(clip, photos, replace(CONFIG, seed=seed), output=tmp_path / f"run-{seed}")
        for split, images in (("train", own[0].train), ("val", own[0].val)):
            assert [str(photos / path) for path, _ in run.record.images.by_split()[split]] == list(
                map(str, images.paths)
            )
        cell = next(c for c in found.datasets[0].results if (c.method, c.seed) == ("zero-shot", seed))
        assert cell.measurements is not None
        assert cell.measurements.test == pytest.approx(run.results.zero_shot)
    assert tasks[0][1].train.paths != tasks[-1][1].train.paths
    assert found.datasets[0].images == {"train": 12, "val": 12, "test": 12}


def test_measurements_are_those_of_what_the_method_returned(
    clip: sz.Clip, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method whose classifier is known: its accuracies by a plain computation, on the test split and elsewhere."""
    classifier = np.random.default_rng(0).standard_normal((3, 24)).astype(np.float32)
    told: list[Score] = []

    def start(task: Task, options: Mapping[str, Any]) -> Steps:
        for queries in (0, 7, 31):
            told.append(score_features(mx.array(classifier) * (queries - 8), task.val, 1.0))
            best = told[0] if queries < 31 else told[-1]
            kept = CosineClassifier(mx.array(-classifier if queries < 31 else classifier), 3.0)
            yield Progress(queries, told[-1], best, partial(replace, kept), image_passes=2 * queries)
        return kept

    monkeypatch.setattr(registry, "method", lambda name: Method(name, name, "", start))
    shifted = tmp_path / "elsewhere"
    for name in ("dog", "cat"):  # a subset of the classes, in another order of listing
        shutil.copytree(photos / name, shifted / name)
    output = tmp_path / "out"
    found = compare(clip, photos, CONFIG, methods="bbt", seeds=1, shift=[shifted], output=output)
    measured = found.datasets[0].results[1].measurements
    assert measured is not None
    assert (measured.queries, measured.image_passes) == (31, 62)
    assert measured.val == told[2].accuracy
    assert measured.curve.queries == (0, 7, 31)
    assert measured.curve.accuracy == tuple(score.accuracy for score in told[:3])
    assert measured.curve.best_loss == (told[0].loss, told[0].loss, told[2].loss)
    features = np.array(clip.encode_images(sorted(shifted.rglob("*.png"))))
    order = ["barn owl", "cat", "dog"]
    labels = [order.index(path.parent.name) for path in sorted(shifted.rglob("*.png"))]
    expected = np.mean((features @ classifier.T).argmax(axis=1) == labels)
    assert measured.shift == {"elsewhere": pytest.approx(expected)}
    split = draw_split(photos, shots=4, seed=0).test
    assert split is not None
    own = np.array(clip.encode_images(split.paths)) @ classifier.T
    assert measured.test == pytest.approx(np.mean(own.argmax(axis=1) == split.labels))
    before = pytest.approx(np.mean(own.argmin(axis=1) == split.labels))
    assert list(measured.curve.test) == [before, before, measured.test]


def test_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = [tmp_path / place for place in ("a/x/images", "b/x/images", "b/y/images", "c/photos", "c/test")]
    named = name_folders(paths)
    assert list(named.values()) == paths
    assert list(named) == ["a-x-images", "b-x-images", "y-images", "photos", "c-test"]
    with pytest.raises(UserError, match=r"another folder would have the name .*a-b"):
        name_folders([tmp_path / "a" / "b", tmp_path / "c" / "b", tmp_path / "a-b"])


def test_a_method_that_fails_is_recorded_and_tried_again(
    clip: sz.Clip, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        break_method(patch, "bbt", ZeroDivisionError("no such\nluck"))
        found = compare(clip, photos, CONFIG, methods="bbt,zo", seeds=1, output=tmp_path / "out")
        assert [(cell.method, cell.error) for cell in found.failed] == [("bbt", "ZeroDivisionError: no such luck")]
        row = found.datasets[0].rows[1]
        assert (row.method, row.seeds, row.test) == ("bbt", (), None)
        assert row.errors == {0: "ZeroDivisionError: no such luck"}
    content = json.loads(next((tmp_path / "out" / "results").glob("*bbt*")).read_text())
    assert "Traceback" in content["traceback"]
    assert "raise error" in content["traceback"]
    events = list(compare_steps(clip, photos, CONFIG, methods="bbt,zo", seeds=1, output=tmp_path / "out"))
    assert [event.found for event in events if isinstance(event, Finished)] == [True, False, True]
    end = events[-1]
    assert isinstance(end, Comparison)
    assert end.failed == []


def test_a_budget_too_small_for_one_method_leaves_the_rest_alone(clip: sz.Clip, photos: Path, tmp_path: Path) -> None:
    small = replace(CONFIG, query_budget=4)
    found = compare(clip, photos, small, methods="bbt,zo,ncm", seeds=1, output=tmp_path / "out")
    assert [(cell.method, cell.error) for cell in found.failed] == [
        ("bbt", "query-budget 4: the search needs at least 20; raise it to that")
    ]
    assert [row.method for row in found.datasets[0].rows if row.test is not None] == ["zero-shot", "zo", "ncm"]
    with pytest.raises(UserError, match=r"bbt \(tuned\): query-budget 4: the search needs"):
        compare(clip, photos, small, methods="bbt,sharpzo,ncm", seeds=1, output=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_an_interrupt_is_no_failure(
    clip: sz.Clip, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_method(monkeypatch, "bbt", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        compare(clip, photos, CONFIG, methods="bbt", seeds=1, output=tmp_path / "out")
    assert [path.name.split("-")[1] for path in (tmp_path / "out" / "results").iterdir()] == ["zero"]


def test_what_cannot_be_compared_is_refused_before_anything_runs(clip: sz.Clip, photos: Path, tmp_path: Path) -> None:
    for options, words in (
        ({"methods": "bbt,nonsense"}, "method 'nonsense': choose among"),
        ({"methods": ""}, "no method named"),
        ({"seeds": 0}, "seeds 0: at least 1"),
        ({"variants": ["best"]}, "variant 'best'"),
        ({"config": replace(CONFIG, time_budget=60.0)}, "time-budget: methods are compared at equal queries"),
        ({"shift": [tmp_path / "nowhere"]}, "nowhere"),
    ):
        given: dict[str, Any] = {"config": CONFIG, "output": tmp_path / "out", "methods": "bbt", **options}
        with pytest.raises(UserError, match=re.escape(words)):
            compare(clip, photos, **given)
    with pytest.raises(UserError, match="nowhere"):
        compare(clip, [photos, tmp_path / "nowhere"], CONFIG, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_shifted_folder_with_images_of_the_data_set_is_named_once(
    clip: sz.Clip, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(photos / "cat", elsewhere / "cat")  # copies are other files
    for output, shift in (("a", [elsewhere]), ("b", [elsewhere, photos])):
        compare(clip, photos, CONFIG, methods="zero-shot", seeds=2, shift=shift, output=tmp_path / output)
    (line,) = [record.message for record in caplog.records if "flatters" in record.message]
    split = draw_split(photos, shots=4, seed=0)
    seen, images = len(split.train.paths) + len(split.val.paths), len(list(photos.rglob("*.png")))
    told = f"what is tuned on {photos.name} (seed 0) was trained or validated on {seen} of these {images} images"
    assert line.startswith(f"{photos}: {told}")
