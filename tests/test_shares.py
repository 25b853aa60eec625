"""Shares against a plain optimum: their posterior written out anew, its slope by differences, and a grid."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sharpzo_mlx.heads.shares import Prior, choose_shares, image_share, make_prior

PRIOR = Prior(np.array([1.0, 0.05, 0.005]), np.array([2.0, 0.7, 1.5]))


def drawn(images: int = 80, classes: int = 5, seed: int = 0, *, parts: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Logits [P, N, K] of classifiers of unlike scale and worth, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images)
    worth, scale = np.array([1.0, 1.5, 0.3])[:parts], np.array([2.0, 30.0, 100.0])[:parts]
    noise = rng.normal(size=(parts, images, classes))
    return scale[:, None, None] * (worth[:, None, None] * np.eye(classes)[labels] + noise), labels


def posterior(logs: np.ndarray, logits: np.ndarray, labels: np.ndarray, prior: Prior) -> float:
    """The negative logarithm of the posterior probability at the logarithms of the shares."""
    total = 0.5 * float((((logs - np.log(prior.centres)) / prior.widths) ** 2).sum())
    summed = np.einsum("p,pnk->nk", np.exp(logs), logits)
    top = summed.max(axis=1, initial=-np.inf)
    for row, highest, label in zip(summed, top, labels, strict=True):
        total += float(highest + np.log(np.exp(row - highest).sum()) - row[label])
    return total


def slope(logs: np.ndarray, logits: np.ndarray, labels: np.ndarray, prior: Prior) -> np.ndarray:
    """The gradient by central differences."""
    steps = 1e-5 * np.eye(len(logs))
    ahead, behind = ([posterior(logs + sign * step, logits, labels, prior) for step in steps] for sign in (1, -1))
    found: np.ndarray = (np.array(ahead) - np.array(behind)) / 2e-5
    return found


@pytest.mark.parametrize("images", [1, 6, 80, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_the_result_is_a_stationary_point(images: int, seed: int) -> None:
    logits, labels = drawn(images, seed=seed)
    found = choose_shares(logits, labels, PRIOR)
    logs = np.log(found.values)
    # a decrease of less than 1e-8 nats is not looked for: slope^2 / (2 curvature), where the curvature grows with N
    assert np.abs(slope(logs, logits, labels, PRIOR)).max() < 2e-3 * np.sqrt(images)
    assert found.loss == pytest.approx(posterior(logs, logits, labels, PRIOR), abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_lowest_point_of_a_grid(seed: int) -> None:
    """Grids that close in, from five widths of the prior around its centres."""
    logits, labels = drawn(40, seed=seed)
    centre, reach = np.log(PRIOR.centres), 5 * PRIOR.widths
    lowest = np.inf
    for _ in range(14):
        axes = [np.linspace(c - r, c + r, 7) for c, r in zip(centre, reach, strict=True)]
        values = {at: posterior(np.array(at), logits, labels, PRIOR) for at in itertools.product(*axes)}
        centre, lowest = np.array(min(values, key=values.__getitem__)), min(values.values())
        reach = reach / 2
    found = choose_shares(logits, labels, PRIOR)
    assert found.loss <= lowest + 1e-6
    np.testing.assert_allclose(np.log(found.values), centre, atol=5e-3)


def test_without_images_it_is_the_priors_centres() -> None:
    found = choose_shares(np.zeros((3, 0, 4)), np.zeros(0, int), PRIOR)
    np.testing.assert_allclose(found.values, PRIOR.centres, rtol=1e-12)
    assert found.loss == pytest.approx(0)


def test_a_constant_of_each_image_changes_nothing() -> None:
    logits, labels = drawn()
    rng = np.random.default_rng(1)
    moved = logits + 50 * rng.normal(size=(3, len(labels), 1))
    one, other = choose_shares(logits, labels, PRIOR), choose_shares(moved, labels, PRIOR)
    np.testing.assert_allclose(one.values, other.values, rtol=1e-6)
    assert one.loss == pytest.approx(other.loss, abs=1e-6)


def test_a_part_that_says_nothing_stays_at_its_centre() -> None:
    logits, labels = drawn()
    logits[2] = 7.0
    found = choose_shares(logits, labels, PRIOR)
    assert found.values[2] == pytest.approx(PRIOR.centres[2])
    two = choose_shares(logits[:2], labels, Prior(PRIOR.centres[:2], PRIOR.widths[:2]))
    np.testing.assert_allclose(found.values[:2], two.values, rtol=1e-4)


def test_a_part_that_misleads_shrinks() -> None:
    logits, labels = drawn(400)
    logits[1] *= -1
    found = choose_shares(logits, labels, PRIOR)
    assert found.values[1] < 0.2 * PRIOR.centres[1]
    np.testing.assert_allclose(slope(np.log(found.values), logits, labels, PRIOR), 0, atol=0.05)


@pytest.mark.parametrize("right", [True, False])
def test_huge_logits_do_not_overflow(right: bool) -> None:
    """Also where all of them are confidently wrong."""
    logits, labels = drawn()
    logits = 1e4 * (logits if right else -logits)
    with np.errstate(all="raise", under="ignore"):
        found = choose_shares(logits, labels, PRIOR)
    assert np.isfinite(found.values).all()
    assert (found.values > 0).all()
    assert found.loss < posterior(np.log(PRIOR.centres), logits, labels, PRIOR)
    assert found.loss == pytest.approx(posterior(np.log(found.values), logits, labels, PRIOR), rel=1e-6)
    scale = posterior(np.log(found.values) + 0.01, logits, labels, PRIOR)  # no better place beside it
    assert found.loss <= min(scale, posterior(np.log(found.values) - 0.01, logits, labels, PRIOR))


def test_a_thousand_classes() -> None:
    logits, labels = drawn(200, 1000, seed=5)
    found = choose_shares(logits, labels, PRIOR)
    assert np.abs(slope(np.log(found.values), logits, labels, PRIOR)).max() < 0.03


def test_the_labels_outweigh_the_prior_as_they_grow_in_number() -> None:
    """The true share of a single classifier is found with many images, and the prior's centre with one."""
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(1, 20000, 4))
    powers = np.exp(0.5 * logits[0])
    labels = np.array([rng.choice(4, p=row) for row in powers / powers.sum(axis=1, keepdims=True)])
    prior = Prior(np.array([2.0]), np.array([0.5]))
    many, one = (choose_shares(logits[:, :n], labels[:n], prior).values[0] for n in (20000, 1))
    assert many == pytest.approx(0.5, rel=0.05)
    assert abs(np.log(one / 2)) < 0.5


def test_the_priors_centre_grows_with_the_shots() -> None:
    shares = [image_share(shots) for shots in (1, 2, 4, 8, 16, 32, 64)]
    growth = np.array(shares[1:]) / np.array(shares[:-1])
    assert (growth[:3] > 2).all()  # more than twice as much from one image to two, two to four, four to eight
    assert (growth > 1).all()
    assert (np.diff(growth) < 0).all()
    assert make_prior(8).centres[1] == image_share(8)
    assert make_prior(8).centres.shape == make_prior(8).widths.shape == (3,)
