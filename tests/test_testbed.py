"""The main job on real weights and real images, as a user would do it, on a small budget."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import sharpzo_mlx as sz
from sharpzo_mlx.convert import convert
from sharpzo_mlx.datasets.folder import read_folder
from sharpzo_mlx.features.extract import encode
from sharpzo_mlx.files import CACHE_VARIABLE
from sharpzo_mlx.optimisers.gradients import cge, forward_mode
from sharpzo_mlx.rng import key_for
from sharpzo_mlx.tuning.pipeline import tune
from sharpzo_mlx.tuning.problem import make_problem

BUDGET = 2000


@pytest.fixture(scope="module")
def clip(testbed: Path, tmp_path_factory: pytest.TempPathFactory) -> sz.Clip:
    folder = tmp_path_factory.mktemp("model") / "m"
    convert(testbed / "clip-tiny", folder)
    return sz.load(folder)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One feature cache for all tests of this file: the images are encoded once."""
    return tmp_path_factory.mktemp("features")


@pytest.fixture(autouse=True)
def _own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(cache))


def test_tuning_photographs_gains_and_its_run_can_be_used(clip: sz.Clip, testbed: Path, tmp_path: Path) -> None:
    photo = testbed / "pacs" / "photo"
    run = tune(clip, photo, sz.TuneConfig(shots=16, seed=0, query_budget=BUDGET), output=tmp_path / "run")
    results = run.results
    assert results.zero_shot == pytest.approx(0.286, abs=0.003)  # as the testbed's README measured it in torch
    assert results.test is not None
    assert results.test > results.zero_shot + 0.08
    assert results.val >= results.zero_shot_val
    assert results.queries <= BUDGET
    report = sz.evaluate(run, [photo / "test", testbed / "pacs" / "sketch"])
    assert report.folders[0].tuned == pytest.approx(results.test)
    assert report.folders[1].images == 420
    image = next((photo / "test" / "dog").iterdir())
    (prediction,) = sz.predict(run, image, top=7)
    assert sum(p for _, p in prediction.labels) == pytest.approx(1, abs=1e-4)
    assert {name for name, _ in prediction.labels} == set(run.prompt.class_names)


def test_plain_zero_shot_accuracy(clip: sz.Clip, testbed: Path) -> None:
    """Measured by the testbed's README with transformers in torch, on the test split."""
    features = encode(clip, read_folder(testbed / "pacs" / "photo" / "test"))
    texts = clip.encode_texts([f"a photo of a {name}." for name in features.class_names])
    accuracy = (np.array(features.embeddings @ texts.T).argmax(axis=1) == features.labels).mean()
    assert accuracy == pytest.approx(0.286, abs=0.003)


def test_objective_on_real_weights(clip: sz.Clip, testbed: Path) -> None:
    photo = testbed / "pacs" / "photo"
    train, val = (encode(clip, read_folder(photo / split)) for split in ("train", "val"))
    objective = make_problem(clip, train, val, sz.TuneConfig().with_settings({"space.dimension": 24})).objective
    w = 0.4 * mx.random.normal((3, 24), key=key_for(0, "test"))
    # the plain path: whole texts through the text tower, softmax in float64
    for row, loss in zip(w, objective.losses(w), strict=True):
        context = objective.space.contexts(row[None])[0]
        features = []
        for name in train.class_names:
            ids = clip.tokenizer.encode(f"a photo of a {name}.")
            x = clip.text_model().embed(mx.array([ids + [clip.tokenizer.pad_id] * (77 - len(ids))]))
            x[:, 1 : 1 + context.shape[0]] = context
            pooled = clip.text_model().from_embeddings(x, mx.array([len(ids) - 1]))
            features.append(np.array(clip.text().text_projection(pooled)[0], np.float64))
        text = np.stack(features) / np.linalg.norm(features, axis=-1, keepdims=True)
        logits = clip.logit_scale * np.array(train.embeddings, np.float64) @ text.T
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        assert float(loss) == pytest.approx(-log_p[np.arange(len(log_p)), train.labels].mean(), rel=1e-5)


def test_estimators_see_the_true_gradient_on_real_weights(clip: sz.Clip, testbed: Path) -> None:
    photo = testbed / "pacs" / "photo"
    train, val = (encode(clip, read_folder(photo / split)) for split in ("train", "val"))
    objective = make_problem(clip, train, val, sz.TuneConfig().with_settings({"space.dimension": 24})).objective
    w = 0.2 * mx.random.normal((24,), key=key_for(1, "test"))
    true = np.array(mx.grad(lambda x: objective.losses(x[None])[0])(w), np.float64)

    def cosine(estimate: mx.array) -> float:
        other = np.array(estimate, np.float64)
        return float(other @ true / np.linalg.norm(other) / np.linalg.norm(true))

    assert np.linalg.norm(true) > 1e-3
    assert cosine(forward_mode(objective, w).vector) > 0.99999
    assert cosine(cge(objective, w, mu=1e-2).vector) > 0.999
