"""ZIP: its context is the plain formula's, what is shared is shared, it starts at zero-shot and keeps the budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from method_runs import finished, small_task, spsa_search

from sharpzo_mlx.comparison.methods import zip_tuning
from sharpzo_mlx.comparison.methods.classifiers import CosineClassifier
from sharpzo_mlx.comparison.methods.method import AVERAGING, Predictor, Progress, Task
from sharpzo_mlx.comparison.methods.zip_space import ZipSpace
from sharpzo_mlx.comparison.methods.zip_tuning import METHODS, ZipOptions, make_zip_problem
from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.objective.loss import score_calibrated
from sharpzo_mlx.optimisers.spsa import SPSAParams

N, M, P, R = 3, 10, 7, 2


@pytest.fixture
def space() -> ZipSpace:
    keys = mx.random.split(mx.random.key(0))
    return ZipSpace(mx.random.normal((N, M), key=keys[0]), mx.random.normal((N * M, P), key=keys[1]), R)


@pytest.fixture(scope="module")
def task(tiny_model: Path, photos: Path) -> Task:
    return small_task(tiny_model, photos, query_budget=203)


def run(task: Task, **options: object) -> tuple[list[Progress], Predictor]:
    return finished(METHODS[0].start(task, options))


def shift(space: ZipSpace, z: mx.array) -> np.ndarray:
    return np.array(space.contexts(z[None])[0] - space.initial)


def test_contexts_are_the_formula(space: ZipSpace) -> None:
    batch = np.random.default_rng(1).normal(size=(4, space.dimension)).astype(np.float32)
    assert space.dimension == N * R + R + P * R + P
    projections = np.array(space.projection).reshape(N, M, P)
    for z, context in zip(batch, space.contexts(mx.array(batch)), strict=True):
        own, z = z[: N * R].reshape(N, R), z[N * R :]
        diagonal, z = np.diag(z[:R]), z[R:]
        basis, shared = z[: P * R].reshape(P, R), z[P * R :]
        for token in range(N):
            q = own[token] @ diagonal @ basis.T + shared
            expected = np.array(space.initial)[token] + projections[token] @ q
            np.testing.assert_allclose(context[token], expected, rtol=1e-4, atol=1e-5)


def test_what_is_shared_moves_every_token_and_what_is_not_one(space: ZipSpace) -> None:
    z = mx.random.normal((space.dimension,), key=mx.random.key(2))
    before = shift(space, z)

    def moved(index: int) -> list[bool]:
        changed = shift(space, z + 0.5 * (mx.arange(space.dimension) == index)) - before
        return [bool(np.abs(token).max() > 1e-4) for token in changed]

    for token in range(N):
        assert moved(token * R) == [other == token for other in range(N)]  # U
    for index in (N * R, N * R + R, space.dimension - 1):  # s, V, v
        assert moved(index) == [True] * N


def test_one_diagonal_scales_all_tokens(space: ZipSpace) -> None:
    """With v = 0 the shift is linear in s: an s of twice one entry doubles that direction in every token."""
    z = np.random.default_rng(3).normal(size=space.dimension).astype(np.float32)
    z[-P:] = 0
    z[N * R : N * R + R] = [1.5, 0.0]
    twice = z.copy()
    twice[N * R] *= 2
    np.testing.assert_allclose(shift(space, mx.array(twice)), 2 * shift(space, mx.array(z)), rtol=1e-4, atol=1e-5)


def test_the_start_is_exactly_zero_shot(task: Task, space: ZipSpace) -> None:
    start = space.make_start(mx.random.key(4))
    np.testing.assert_array_equal(space.contexts(start[None])[0], space.initial)
    assert float(mx.std(start[N * R + R : -P])) > 0.5  # V is there, so that U has something to weigh
    problem, own = make_zip_problem(task, ZipOptions(intrinsic=90, unit_columns=False))
    plain = task.problem().objective
    first = own.make_start(mx.random.key(5))
    np.testing.assert_array_equal(
        problem.objective.class_features(first), plain.class_features(mx.zeros(plain.dimension))
    )


def test_the_scale_is_the_rule_of_all_methods_or_the_papers(task: Task) -> None:
    ours = make_zip_problem(task, ZipOptions(intrinsic=900, unit_columns=False))[1]
    tokens, width = ours.initial.shape
    assert tokens == 9  # the bytes of "a photo of a", words apart
    rule = task.problem({"space.dimension": 100}).objective.space
    np.testing.assert_array_equal(ours.projection, rule.projection)
    papers = make_zip_problem(task, ZipOptions(intrinsic=900))[1]
    columns = mx.linalg.norm(papers.projection.reshape(tokens, width, 100), axis=1)
    assert float(mx.mean(columns)) == pytest.approx(1.0, abs=0.02)


def test_the_budget_is_kept_and_every_query_counted(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = []
    make = make_zip_problem

    def spy(*given: object) -> object:
        problems.append(make(*given))  # type: ignore[arg-type]
        return problems[-1]

    monkeypatch.setattr("sharpzo_mlx.comparison.methods.zip_tuning.make_zip_problem", spy)
    records, _ = run(task, draws=5, intrinsic=90, unit_columns=False)
    assert records[-1].queries == problems[0][0].objective.queries == 200  # 203 buy twenty steps of ten
    assert [record.queries for record in records] == [0, 100, 200]
    assert records[0].score == task.problem().validate(mx.zeros(task.config.space.dimension))
    assert all(record.image_passes == record.backward_passes == 0 for record in records)


def test_it_lowers_the_loss_and_a_seed_makes_one_result(task: Task) -> None:
    options = {"intrinsic": 90, "unit_columns": False, "learning_rate": 0.3, "validate_every": 1}
    records, predictor = run(task, **options)
    assert isinstance(predictor, CosineClassifier)
    assert records[-1].score.loss < records[0].score.loss - 0.02
    again, same = run(task, **options)
    assert again == records
    np.testing.assert_array_equal(predictor.logits(task.val), same.logits(task.val))
    other = Task(task.clip, task.train, task.val, TuneConfig(shots=4, seed=1, head="none"), task.query_budget)
    assert run(other, **options)[0][1:] != records[1:]


def test_what_is_returned_is_the_best_that_was_validated(task: Task) -> None:
    records, predictor = run(task, intrinsic=90, unit_columns=False, learning_rate=0.3)
    assert isinstance(predictor, CosineClassifier)
    found = score_calibrated(predictor.logits(task.val), mx.array(task.val.labels))
    assert found.accuracy == records[-1].best.accuracy
    assert found.loss == pytest.approx(records[-1].best.loss, rel=1e-5)
    assert found.loss < records[0].score.loss


def test_its_steps_are_averaged_as_the_options_say(task: Task) -> None:
    one = replace(task, query_budget=10)
    with_it, without = (run(one, learning_rate=0.1, averaging=share)[0][-1].score for share in (0.9, 0.0))
    assert with_it != without


@pytest.mark.parametrize(("variant", "rate", "share"), [("published", 0.01, 0.0), ("tuned", 0.3, AVERAGING)])
def test_its_search_is_clipped_spsa_over_a_map_of_rank_five(
    variant: str, rate: float, share: float, task: Task
) -> None:
    search = spsa_search(zip_tuning, task, getattr(METHODS[0], variant))
    assert search.params == SPSAParams(
        learning_rate=rate, mu=0.01, stability=1, decay=0.4, mu_decay=0.1, draws=5, clipped=True, averaging=share
    )
    tokens, width = 9, 500 // 9
    assert search.start.shape == (tokens * 5 + 5 + width * 5 + width,)  # U, s, V, v


def test_published_numbers_are_the_papers_and_tuned_is_a_trial() -> None:
    (method,) = METHODS
    assert method.published == {
        "learning_rate": 0.01,
        "mu": 0.01,
        "draws": 5,
        "rank": 5,
        "intrinsic": 500,
        "unit_columns": True,
        "clipped": True,
        "averaging": 0.0,
        "validate_every": 10,
    }
    assert method.tuned in method.trials
    assert len({ZipOptions(**trial) for trial in method.trials}) == 4
