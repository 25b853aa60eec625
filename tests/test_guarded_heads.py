"""The default of `tune` as a method of `compare`, and its parts."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from method_runs import finished
from painted_data import paint_overlapping
from tiny_settings import TINY

import sharpzo_mlx as sz
from sharpzo_mlx.comparison.methods import registry
from sharpzo_mlx.comparison.methods.classifiers import HeadClassifier
from sharpzo_mlx.comparison.methods.method import Progress, Task
from sharpzo_mlx.datasets.splits import draw_split
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.features.extract import Features, encode
from sharpzo_mlx.heads.closed_form import fit_discriminant
from sharpzo_mlx.tuning.beside_head import WordsGain
from sharpzo_mlx.tuning.pipeline import tune

CONFIG = sz.TuneConfig(shots=4, seed=0, views=2).with_settings(TINY)
BUDGET = 5000


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint_overlapping(tmp_path_factory.mktemp("hard") / "photos")


def make_task(model: Path, photos: Path, *, queries: int = BUDGET, config: sz.TuneConfig = CONFIG) -> Task:
    """A task as a comparison makes it."""
    split = draw_split(photos, shots=config.shots, seed=0)
    train, val = (encode(sz.load(model), images) for images in (split.train, split.val))
    return Task(sz.load(model), train, val, replace(config, head="none", query_budget=queries), queries)


def encode_test(model: Path, photos: Path) -> Features:
    images = draw_split(photos, shots=4, seed=0).test
    assert images is not None
    return encode(sz.load(model), images)


def run(name: str, task: Task) -> tuple[list[Progress], HeadClassifier]:
    """The records of a method and the head that it returns."""
    method = registry.method(name)
    records, found = finished(method.start(task, method.tuned))
    assert isinstance(found, HeadClassifier)
    return records, found


@pytest.mark.parametrize(("name", "changes"), [("default", {}), ("head", {"generations": 0, "steps": 0})])
def test_a_row_is_what_tune_does(
    name: str, changes: dict[str, Any], tiny_model: Path, hard: Path, tmp_path: Path
) -> None:
    """The same head, the same decision about the words, the same accuracies."""
    tuned = tune(sz.load(tiny_model), hard, CONFIG.with_settings(changes), output=tmp_path / "run")
    records, found = run(name, make_task(tiny_model, hard))
    test = encode_test(tiny_model, hard)
    np.testing.assert_allclose(found.logits(test), tuned.prompt.logits(test.embeddings), rtol=1e-5, atol=1e-4)
    assert records[-1].score.accuracy == tuned.results.val
    assert records[-1].image_passes == 2 * (12 + 12)
    assert (records[-1].queries > 0) == (name == "default")
    assert tuned.results.test == pytest.approx((np.array(found.logits(test)).argmax(axis=1) == test.labels).mean())


def test_words_that_do_not_add_to_the_head_are_left(
    tiny_model: Path, hard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search is thrown away, and the rest is the head without a search."""
    task, test = make_task(tiny_model, hard), encode_test(tiny_model, hard)
    monkeypatch.setattr(WordsGain, "worth_keeping", True)
    monkeypatch.setattr("sharpzo_mlx.tuning.beside_head.names_as_many", lambda *_: True)
    _, tuned = run("default", task)
    monkeypatch.setattr(WordsGain, "worth_keeping", False)
    records, found = run("default", task)
    _, plain = run("head", task)
    assert records[-1].queries > 0
    assert np.abs(np.array(tuned.logits(test)) - np.array(plain.logits(test))).max() > 1e-3
    np.testing.assert_array_equal(found.logits(test), plain.logits(test))


def test_the_search_ends_with_the_budget_or_the_steps_of_tune(tiny_model: Path, hard: Path) -> None:
    method, (records, _) = registry.method("default"), run("default", make_task(tiny_model, hard))
    longest = records[-1].queries
    assert longest < BUDGET
    short, _ = run("default", make_task(tiny_model, hard, queries=longest // 2))
    assert longest // 4 < short[-1].queries <= longest // 2
    with pytest.raises(UserError, match="query-budget 1: the search needs at least"):
        method.check(replace(CONFIG, head="none", query_budget=1), {})
    method.check(replace(CONFIG, head="none", query_budget=longest), {})


def test_without_its_guard_a_head_says_what_it_learned(tiny_model: Path, hard: Path) -> None:
    task = make_task(tiny_model, hard)
    guarded_records, guarded = run("head", task)
    records, opened = run("head-unguarded", task)
    foreign = mx.random.normal((20, guarded.words.shape[1]), key=mx.random.key(0))
    foreign = foreign / mx.linalg.norm(foreign, axis=1, keepdims=True)
    images = replace(task.val, embeddings=foreign)
    learned = foreign @ opened.head.weight.T + opened.head.bias
    np.testing.assert_allclose(opened.logits(images), learned, rtol=1e-6, atol=1e-5)
    np.testing.assert_array_equal(opened.head.weight, guarded.head.weight)
    assert np.array(guarded.head.opening(foreign)).mean() < 0.9
    assert np.array(opened.head.opening(foreign)).min() == 1.0
    assert records[-1].score.loss != guarded_records[-1].score.loss
    assert records[-1].score.images == guarded_records[-1].score.images == 24


def test_gda_alone_reads_training_images_alone(tiny_model: Path, hard: Path) -> None:
    task = make_task(tiny_model, hard)
    test = encode_test(tiny_model, hard)
    method = registry.method("gda-alone")
    _, found = finished(method.start(task, method.tuned))
    fitted = fit_discriminant(np.array(task.train.embeddings), task.train.labels, 3).logits(np.array(test.embeddings))
    ratio = np.array(found.logits(test)) / fitted
    assert ratio.min() > 0
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-4)


def test_a_comparison_has_the_default_as_a_row(tiny_model: Path, hard: Path, tmp_path: Path) -> None:
    shifted = tmp_path / "drawings"
    shutil.copytree(hard, shifted)
    config = sz.TuneConfig(shots=4, query_budget=400).with_settings(TINY)
    found = sz.compare(
        sz.load(tiny_model), hard, config, methods="heads,gda-alone", seeds=1, shift=[shifted], output=tmp_path / "c"
    )
    assert not found.failed
    rows = {row.method: row for row in found.datasets[0].rows}
    assert list(rows) == ["zero-shot", "gda-alone", "head-unguarded", "head", "default"]
    assert [rows[name].costs["image_passes"] for name in ("gda-alone", "head", "default")] == [0, 240, 240]
    assert rows["default"].costs["queries"] <= 400
    assert all(set(row.shift) == {"drawings"} for row in rows.values())
    assert "Words tuned beside Gaussians + guard" in (tmp_path / "c" / "comparison.md").read_text()
