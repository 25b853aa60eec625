"""Words beside a head: when they are searched, what they are searched against, and whether they pay."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from labelled_features import World
from method_runs import small_task

from sharpzo_mlx.comparison.methods.method import Task
from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.datasets.templates import PLAIN
from sharpzo_mlx.heads.fit import fit_head
from sharpzo_mlx.prompts.ensemble import template_features
from sharpzo_mlx.tuning.beside_head import (
    WordsGain,
    can_search,
    count_views,
    make_problem_beside_head,
    measure_gain,
    names_as_many,
)


@pytest.fixture(scope="module")
def task(tiny_model: Path, photos: Path) -> Task:
    """Features of a small CLIP with labels of which a half is drawn: no loss is near zero."""
    task, rng = small_task(tiny_model, photos, query_budget=1), np.random.default_rng(0)
    train, val = (
        replace(images, labels=np.where(rng.random(12) < 0.5, rng.permutation(images.labels), images.labels))
        for images in (task.train, task.val)
    )
    assert min(np.bincount(images.labels, minlength=3).min() for images in (train, val)) > 1
    return replace(task, train=train, val=val)


@pytest.mark.parametrize(
    ("given", "train", "val", "wanted"),
    [(None, 4, 4, 10), (None, 8, 0, 10), (None, 5, 4, 0), (None, 16, 4, 0), (0, 1, 0, 0), (3, 16, 4, 3)],
)
def test_views_pay_where_images_are_few(given: int | None, train: int, val: int, wanted: int) -> None:
    world = World.draw(5, 8)
    config = TuneConfig(views=given)
    assert count_views(config, world.features(train, 1), world.features(val, 2)) == wanted


@pytest.mark.parametrize(
    ("options", "train", "val", "reason"),
    [
        ({}, 4, 2, None),
        ({"steps": 5}, 4, 2, None),
        ({"steps": 0}, 4, 2, ""),
        ({}, 4, 0, ""),
        ({}, 1, 2, ""),
        ({"steps": 5}, 4, 0, "no validation image"),
        ({"query_budget": 500}, 4, 0, "no validation image"),
        ({"time_budget": 60.0}, 1, 2, "one training image a class"),
        ({"generations": 2}, 1, 0, "no validation image"),
    ],
)
def test_what_a_search_needs(
    options: dict[str, float], train: int, val: int, reason: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A reason of None: it can be searched; an empty one: it cannot, which nobody asked for."""
    world = World.draw(5, 8)
    config = TuneConfig(**options)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING, logger="sharpzo_mlx"):
        assert can_search(config, world.features(train, 1), world.features(val, 2)) == (reason is None)
    notices = [record.message for record in caplog.records]
    assert len(notices) == bool(reason)
    assert not reason or reason in notices[0]


@pytest.mark.parametrize(
    ("gain", "kept"),
    [
        (WordsGain(0.03, 0.01, 0.0), True),
        (WordsGain(0.03, 0.02, 0.0), False),
        (WordsGain(0.02, 0.03, 0.1), False),
        (WordsGain(0.02, 0.01, -0.01), False),
        (WordsGain(0.0, 0.0, 0.0), False),
    ],
)
def test_words_are_kept_if_they_add_more_than_chance(gain: WordsGain, kept: bool) -> None:
    assert gain.worth_keeping is kept


def test_words_that_cost_left_out_images_are_not_kept(task: Task) -> None:
    """Whatever they gain beside the head of the training images."""
    problem = make_problem_beside_head(task.clip, task.train, task.val, task.config)
    assert problem.head is not None
    loud = replace(problem.head, head=replace(problem.head.head, text_share=20.0))  # its words can change an answer
    problem = replace(problem, head=loud)
    plain = loud.with_words(0 * problem.objective.class_features(mx.zeros(problem.objective.dimension)))
    told = set()
    for seed in range(12):
        w = 0.1 * 3**seed * mx.random.normal((problem.objective.dimension,), key=mx.random.key(seed))
        beside = problem.prompt_with_head(w)[1]
        assert beside is not None
        assert names_as_many(problem, w) == (beside.accuracy >= plain.accuracy)
        told.add(names_as_many(problem, w))
    assert told == {True, False}


def test_the_gain_is_the_fall_of_the_validation_loss(task: Task) -> None:
    problem = make_problem_beside_head(task.clip, task.train, task.val, task.config)
    w = 0.3 * mx.random.normal((problem.objective.dimension,), key=mx.random.key(0))
    labels, losses, right = np.array(problem.val.labels), [], []
    for point in (0 * w, w):
        logits = np.array(problem.val_logits(point), np.float64)
        losses.append(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels])
        right.append((logits.argmax(axis=1) == labels).mean())
    fall, gain = losses[0] - losses[1], measure_gain(problem, w)
    assert np.abs(fall).max() > 1e-4
    assert gain.mean == pytest.approx(fall.mean(), rel=1e-4, abs=1e-7)
    assert gain.error == pytest.approx(fall.std(ddof=1) / np.sqrt(len(labels)), rel=1e-4)
    assert gain.accuracy == pytest.approx(right[1] - right[0])
    nothing = measure_gain(problem, 0 * w)
    assert (nothing.mean, nothing.error, nothing.accuracy, nothing.worth_keeping) == (0, 0, 0, False)


def test_words_are_searched_beside_a_head_that_never_saw_the_validation_images(task: Task) -> None:
    problem = make_problem_beside_head(task.clip, task.train, task.val, task.config)
    words = template_features(task.clip, (PLAIN,), task.train.class_names)
    inner = fit_head(words, task.clip.logit_scale, task.train, task.val.take([]))
    scale = task.clip.logit_scale * inner.head.text_share
    x, labels = np.array(task.train.embeddings, np.float64), task.train.labels
    logits = scale * x @ np.array(words, np.float64).T + inner.offsets
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]
    start = mx.zeros((1, problem.objective.dimension))
    assert problem.objective.losses(start).item() == pytest.approx(losses.mean(), rel=1e-4)
    rest = inner.rest.logits(np.array(task.val.embeddings))
    wanted = scale * np.array(task.val.embeddings @ words.T) + rest - rest.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(problem.val_logits(start[0]), wanted, atol=1e-3)
    assert problem.head is not None
    assert len(problem.head.images.labels) == len(task.train.labels) + len(task.val.labels)


def test_without_validation_images_the_plain_words_stay(task: Task) -> None:
    problem = make_problem_beside_head(task.clip, task.train, task.val.take([]), replace(task.config, steps=None))
    assert (problem.config.most_steps, problem.config.most_generations) == (0, 0)
    assert problem.head is not None
    w = mx.zeros((problem.objective.dimension,))
    score = problem.validate(w)
    assert (score.accuracy, score.images) == (problem.head.accuracy, len(task.train.labels))
    prompt = problem.prompt(w)
    assert prompt.head is problem.head.head
    np.testing.assert_array_equal(prompt.class_features, prompt.zero_shot_features)
