"""BlackVIP: its decoder is the plain transposed convolution, nothing painted is zero-shot, passes are counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from method_runs import finished, small_task, spsa_search

from sharpzo_mlx.clip.activations import gelu
from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.comparison.methods import blackvip, painted_images
from sharpzo_mlx.comparison.methods.blackvip import METHODS, BlackVIPOptions
from sharpzo_mlx.comparison.methods.classifiers import CosineClassifier
from sharpzo_mlx.comparison.methods.coordinator import Coordinator
from sharpzo_mlx.comparison.methods.method import AVERAGING, Predictor, Progress, Task
from sharpzo_mlx.comparison.methods.painted_images import MinibatchLoss, PaintedClassifier, PaintedImages, Painter
from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.datasets.folder import read_folder
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.features.extract import Features, encode
from sharpzo_mlx.images.load import open_image, preprocess
from sharpzo_mlx.optimisers.spsa import SPSAParams

SMALL = Coordinator(image_size=16, feature_width=24)


@pytest.fixture(scope="module")
def task(tiny_model: Path, photos: Path) -> Task:
    return small_task(tiny_model, photos, query_budget=50)


@pytest.fixture(scope="module")
def test_images(task: Task, photos: Path) -> Features:
    return encode(task.clip, read_folder(photos), cache=False)


@pytest.fixture(scope="module")
def classifier(task: Task) -> mx.array:
    objective = task.problem().objective
    return objective.class_features(mx.zeros(objective.dimension))


def run(task: Task, **options: object) -> tuple[list[Progress], Predictor]:
    return finished(METHODS[0].start(task, {"minibatch": 5, "draws": 2, "validate_every": 5, **options}))


def transposed_convolution(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Size and stride 2, a pixel and a channel at a time: [h, w, C] by [groups, C / groups, (2, 2, out)]."""
    groups, inputs, outs = weight.shape
    weight = weight.reshape(groups, inputs, 2, 2, outs // 4)
    out = np.zeros((2 * x.shape[0], 2 * x.shape[1], groups * outs // 4))
    for row, column in np.ndindex(*x.shape[:2]):
        for group in range(groups):
            for channel in range(inputs):
                value = x[row, column, group * inputs + channel]
                window = out[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                window[..., group * outs // 4 : (group + 1) * outs // 4] += value * weight[group, channel]
    return out


def painted_by_hand(coordinator: Coordinator, parameters: np.ndarray, feature: np.ndarray) -> np.ndarray:
    values, start = {}, 0
    for name, shape in coordinator.shapes.items():
        values[name] = parameters[start : start + int(np.prod(shape))].reshape(shape)
        start += int(np.prod(shape))
    assert start == len(parameters)
    cube = np.concatenate([feature * len(feature) ** 0.5, values["trigger"]])
    x = cube.reshape(-1, coordinator.edge, coordinator.edge).transpose(1, 2, 0)
    for number in range(coordinator.doublings - 1):
        x = transposed_convolution(x, values[f"{number}.up"]) + values[f"{number}.bias"]
        x = x @ values[f"{number}.mix"]
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-5) * values[f"{number}.gain"] + values[f"{number}.offset"]
        x = np.array(gelu(mx.array(x, mx.float32)), np.float64)
    return transposed_convolution(x, values["last"][None])


def test_prompts_are_the_plain_decoders() -> None:
    rng = np.random.default_rng(0)
    for coordinator in (SMALL, Coordinator(image_size=32, feature_width=70)):
        parameters = coordinator.draw_parameters(mx.random.key(1)) + 0.1 * mx.random.normal((coordinator.dimension,))
        features = rng.normal(size=(2, coordinator.feature_width)) / coordinator.feature_width**0.5
        prompts = coordinator.make_prompts(parameters, mx.array(features, mx.float32))
        assert prompts.shape == (2, coordinator.image_size, coordinator.image_size, 3)
        for prompt, feature in zip(prompts, features, strict=True):
            expected = painted_by_hand(coordinator, np.array(parameters, np.float64), feature)
            np.testing.assert_allclose(prompt, expected, rtol=1e-3, atol=1e-4)


def test_at_the_papers_size_it_is_the_papers_decoder() -> None:
    """224 pixels and features of 768: a cube of 7 x 7 x 32 with a trigger of 800, and 9 120 weights beside it."""
    published = Coordinator(image_size=224, feature_width=768)
    assert (published.edge, published.channels, published.shapes["trigger"]) == (7, 32, (800,))
    assert published.dimension - 800 == 9120


def test_sizes_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(UserError, match="15 pixels"):
        _ = Coordinator(image_size=15, feature_width=24).dimension


def test_the_start_has_the_published_spread() -> None:
    coordinator = Coordinator(image_size=64, feature_width=256)
    start = np.array(coordinator.draw_parameters(mx.random.key(0)))
    trigger = start[: coordinator.shapes["trigger"][0]]
    assert 0 <= trigger.min() < 0.02
    assert 0.08 < trigger.max() <= 0.1
    last = start[-16 * 12 :]
    assert np.abs(last).max() <= 12**-0.5
    assert np.abs(last).max() > 0.9 * 12**-0.5
    silenced = np.array(coordinator.silence(mx.array(start)))
    np.testing.assert_array_equal(silenced[-16 * 12 :], 0)
    np.testing.assert_array_equal(silenced[: -16 * 12], start[: -16 * 12])


@pytest.mark.parametrize("silence", ["weight", "last layer"])
def test_a_silent_prompt_is_exactly_zero_shot(
    task: Task, test_images: Features, classifier: mx.array, silence: str
) -> None:
    parameters = SMALL.draw_parameters(mx.random.key(2))
    painter = Painter(task.clip, SMALL, 0.0 if silence == "weight" else 1.0)
    if silence == "last layer":
        parameters = SMALL.silence(parameters)
    silent = PaintedClassifier(painter, parameters, classifier)
    zero_shot = CosineClassifier(classifier, task.clip.logit_scale)
    np.testing.assert_array_equal(silent.logits(test_images), zero_shot.logits(test_images))


def test_the_predictor_is_the_plain_pipeline(task: Task, test_images: Features, classifier: mx.array) -> None:
    parameters = SMALL.draw_parameters(mx.random.key(3))
    predictor = PaintedClassifier(Painter(task.clip, SMALL, 0.5), parameters, classifier)
    config = task.clip.config.preprocessor
    assert config.mean is not None
    assert config.std is not None
    mean, std = np.array(config.mean), np.array(config.std)
    rows = []
    for path, feature in zip(test_images.paths, np.array(test_images.embeddings, np.float64), strict=True):
        pixels = preprocess(open_image(path), config)
        painted = pixels + 0.5 * painted_by_hand(SMALL, np.array(parameters, np.float64), feature)
        painted = np.clip(painted, -mean / std, (1 - mean) / std).astype(np.float32)
        assert np.abs(painted - pixels).max() > 0.1
        rows.append(np.array(task.clip.encode_pixels(painted[None]))[0])
    expected = task.clip.logit_scale * np.stack(rows) @ np.array(classifier).T
    np.testing.assert_allclose(predictor.logits(test_images), expected, rtol=1e-3, atol=2e-3)


def test_a_minibatch_loss_is_the_mean_cross_entropy(task: Task, classifier: mx.array) -> None:
    images = PaintedImages(Painter(task.clip, SMALL, 1.0), task.train, classifier)
    rows = np.array([7, 0, 3])
    w = mx.stack([SMALL.draw_parameters(mx.random.key(n)) for n in range(2)])
    losses = MinibatchLoss(images, mx.array(rows)).losses(w)
    assert images.passes == 6
    for parameters, loss in zip(w, losses, strict=True):
        predictor = PaintedClassifier(images.painter, parameters, classifier)
        logits = np.array(predictor.logits(task.train.take(rows)), np.float64)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        assert float(loss) == pytest.approx(-log_p[np.arange(3), task.train.labels[rows]].mean(), rel=1e-4)


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_images_are_encoded_alike_in_batches_of_any_size(
    task: Task, classifier: mx.array, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = PaintedImages(Painter(task.clip, SMALL, 1.0), task.train, classifier)
    w = mx.stack([SMALL.draw_parameters(mx.random.key(n)) for n in range(5)])
    rows = mx.array([4, 1, 8])
    whole = images.encode(w, rows)
    assert whole.shape == (5, 3, task.train.embeddings.shape[1])
    seen: list[int] = []
    plain = Clip.encode_pixels
    monkeypatch.setattr(painted_images, "IMAGE_BATCH", size)

    def watched(clip: Clip, pixels: mx.array) -> mx.array:
        seen.append(len(pixels))
        return plain(clip, pixels)

    monkeypatch.setattr(Clip, "encode_pixels", watched)
    np.testing.assert_allclose(images.encode(w, rows), whole, atol=1e-5)
    assert max(seen) <= size
    assert sum(seen) == 15


@pytest.mark.parametrize(("variant", "rate", "share"), [("published", 0.01, 0.0), ("tuned", 0.003, AVERAGING)])
def test_its_search_is_spsa_with_gradient_correction(variant: str, rate: float, share: float, task: Task) -> None:
    search = spsa_search(blackvip, task, getattr(METHODS[0], variant))
    assert search.params == SPSAParams(
        learning_rate=rate, mu=0.01, stability=1, decay=0.4, mu_decay=0.1, draws=5, momentum=0.9, averaging=share
    )


def test_every_step_draws_its_own_minibatch(task: Task) -> None:
    """A step's images are drawn without repeating one, from all of them, and alike whenever they are asked for."""
    search = spsa_search(blackvip, task, {"minibatch": 5})

    def rows(step: int) -> tuple[int, ...]:
        loss = search.loss_at(step)
        assert isinstance(loss, MinibatchLoss)
        return tuple(np.array(loss.rows).tolist())

    drawn = [rows(step) for step in range(20)]
    assert {len(set(minibatch)) for minibatch in drawn} == {5}
    assert len(set(map(frozenset, drawn))) > 15
    assert set().union(*drawn) == set(range(len(task.train.paths)))
    assert [rows(step) for step in range(20)] == drawn


def test_queries_and_image_passes_are_counted(task: Task) -> None:
    records, _ = run(task)
    val = len(task.val.paths)
    assert [record.queries for record in records] == [0, 20, 40, 48]  # 50 buy twelve steps of four
    assert [record.image_passes for record in records] == [0, 100 + val, 200 + 2 * val, 240 + 3 * val]
    assert records[0].score == task.problem().validate(mx.zeros(task.config.space.dimension))


def test_a_minibatch_beyond_the_images_is_all_of_them(task: Task) -> None:
    records, _ = run(replace(task, query_budget=4), minibatch=128)
    assert records[-1].image_passes == 4 * len(task.train.paths) + len(task.val.paths)


def test_the_published_start_paints_and_ours_does_not(task: Task) -> None:
    still, first = (run(task, learning_rate=1e-12, silent_start=silent)[0] for silent in (True, False))
    assert still[1].score == still[0].score
    assert first[1].score != first[0].score


def test_a_seed_makes_one_result(task: Task, test_images: Features) -> None:
    records, predictor = run(task, learning_rate=0.05)
    again, same = run(task, learning_rate=0.05)
    assert again == records
    np.testing.assert_array_equal(predictor.logits(test_images), same.logits(test_images))
    other = replace(task, config=TuneConfig(shots=4, seed=1, head="none"))
    assert run(other, learning_rate=0.05)[0][1:] != records[1:]


def test_what_is_returned_is_the_best_that_was_validated(task: Task) -> None:
    records, predictor = run(task, learning_rate=0.05)
    logits = np.array(predictor.logits(task.val))
    assert float((logits.argmax(axis=1) == task.val.labels).mean()) == pytest.approx(records[-1].best.accuracy)


def test_a_file_that_has_gone_is_named(task: Task, classifier: mx.array) -> None:
    gone = replace(task.val, paths=(Path("gone.png"), *task.val.paths[1:]))
    predictor = PaintedClassifier(Painter(task.clip, SMALL, 1.0), SMALL.draw_parameters(mx.random.key(0)), classifier)
    with pytest.raises(UserError, match=r"gone\.png"):
        predictor.logits(gone)


def test_published_numbers_are_the_papers_and_tuned_is_a_trial() -> None:
    """But for the minibatch, which is 128 images there."""
    (method,) = METHODS
    assert method.published == {
        "learning_rate": 0.01,
        "mu": 0.01,
        "draws": 5,
        "momentum": 0.9,
        "weight": 1.0,
        "minibatch": 16,
        "silent_start": False,
        "averaging": 0.0,
        "validate_every": 20,
    }
    assert method.tuned in method.trials
    assert len({BlackVIPOptions(**trial) for trial in method.trials}) == 4
