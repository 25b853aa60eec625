"""The objective: its losses are those of the formula, chunks change nothing, and every query is counted."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from small_objective import BACKENDS, NAMES, SCALE, draw_images, draw_offsets, make_objective

from sharpzo_mlx.clip.checkpoint import load_model
from sharpzo_mlx.clip.handle import load
from sharpzo_mlx.objective.backend import BackendName
from sharpzo_mlx.prompts.shared_prefix_cpu import SharedPrefixCPU
from sharpzo_mlx.prompts.space import PromptSpace


def plain_losses(folder: Path, space: PromptSpace, w: mx.array, offsets: mx.array | None = None) -> np.ndarray:
    """L by its definition: each class's whole text of 77 tokens by itself, softmax in float64."""
    half, tokenizer, images = load_model(folder, towers=("text",)), load(folder).tokenizer, draw_images()
    added = 0.0 if offsets is None else np.array(offsets, np.float64)
    rows = []
    for context in np.array(space.contexts(w)):
        features = []
        for name in NAMES:
            ids = tokenizer.encode(f"a photo of a {name}.")
            x = half.text_model.embed(mx.array([ids + [tokenizer.pad_id] * (77 - len(ids))]))
            x[:, 1 : 1 + len(context)] = mx.array(context)
            pooled = half.text_projection(half.text_model.from_embeddings(x, mx.array([len(ids) - 1])))
            features.append(np.array(pooled[0], np.float64))
        text = np.stack(features) / np.linalg.norm(features, axis=-1, keepdims=True)
        logits = SCALE * np.array(images.embeddings, np.float64) @ text.T + added
        logits -= logits.max(axis=1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        rows.append(-log_p[np.arange(len(images.labels)), images.labels].mean())
    return np.array(rows)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("offsets", [None, draw_offsets()], ids=["plain", "offsets"])
def test_losses_are_the_definition(tiny_model: Path, backend: BackendName, offsets: mx.array | None) -> None:
    objective = make_objective(tiny_model, backend=backend, offsets=offsets)
    w = mx.random.normal((5, 16), key=mx.random.key(7))
    expected = plain_losses(tiny_model, objective.space, w, offsets)
    assert np.ptp(expected) > 1e-3  # a hundred times the tolerance
    np.testing.assert_allclose(objective.losses(w), expected, rtol=1e-5)
    np.testing.assert_allclose(mx.mean(objective.image_losses(w), axis=1), expected, rtol=1e-5)


@pytest.mark.parametrize("offsets", [None, draw_offsets()], ids=["plain", "offsets"])
def test_chunks_change_nothing_but_rounding(tiny_model: Path, offsets: mx.array | None) -> None:
    w, u = (mx.random.normal((23, 16), key=mx.random.key(n)) for n in (1, 2))
    whole, parts = (make_objective(tiny_model, offsets=offsets) for _ in range(2))
    parts.chunk, parts.jvp_chunk = 4, 3
    np.testing.assert_allclose(parts.losses(w), whole.losses(w), rtol=1e-5)
    # a single image's loss is the difference of logits of about 12, whose own rounding is 1e-6
    np.testing.assert_allclose(parts.image_losses(w), whole.image_losses(w), rtol=1e-5, atol=2e-6)
    for one, other in zip(parts.jvp(w, u), whole.jvp(w, u), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_blocks_of_images_change_nothing(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    w = mx.random.normal((3, 16), key=mx.random.key(1))
    objectives = [
        make_objective(tiny_model, backend=backend, offsets=offsets)
        for backend in BACKENDS
        for offsets in (None, draw_offsets())
    ]
    whole = [np.array(objective.losses(w)) for objective in objectives]
    monkeypatch.setattr("sharpzo_mlx.objective.chunks.LOGITS_AT_ONCE", 7 * 4 * 3)
    monkeypatch.setattr("sharpzo_mlx.objective.chunks.CPU_LOGITS_AT_ONCE", 7 * 4)
    for objective, expected in zip(objectives, whole, strict=True):
        np.testing.assert_allclose(objective.losses(w), expected, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_directional_derivatives_are_autograds(tiny_model: Path, backend: BackendName) -> None:
    objective = make_objective(tiny_model, backend=backend)
    w, u = (mx.random.normal((4, 16), key=mx.random.key(n)) for n in (1, 2))
    losses, slopes = objective.jvp(w, u)
    gradient = mx.grad(lambda x: mx.sum(objective.losses(x)))(w)
    np.testing.assert_allclose(losses, objective.losses(w), rtol=1e-5)
    np.testing.assert_allclose(slopes, mx.sum(gradient * u, axis=1), rtol=1e-3, atol=1e-6)
    _, (through,) = mx.jvp(objective.losses, [w], [u])  # values of either backend, derivatives of the graph
    np.testing.assert_allclose(through, slopes, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_derivatives_with_offsets_are_central_differences(tiny_model: Path, backend: BackendName) -> None:
    objective = make_objective(tiny_model, backend=backend, offsets=draw_offsets())
    w, u = (mx.random.normal((4, 16), key=mx.random.key(n)) for n in (1, 2))
    _, slopes = objective.jvp(w, u)
    differences = (objective.losses(w + 1e-2 * u) - objective.losses(w - 1e-2 * u)) / 2e-2
    np.testing.assert_allclose(slopes, differences, atol=5e-3 * float(np.max(np.abs(slopes))))
    _, without = make_objective(tiny_model, backend=backend).jvp(w, u)
    assert np.max(np.abs(slopes - without)) > 0.05 * np.max(np.abs(slopes))


@pytest.mark.parametrize("backend", BACKENDS)
def test_offsets_that_move_no_class_change_nothing(tiny_model: Path, backend: BackendName) -> None:
    """Zeros to the last bit, which is what no offsets are; the same number for all classes up to rounding."""
    plain, zero, shifted = (
        make_objective(tiny_model, backend=backend, offsets=offsets)
        for offsets in (None, mx.zeros((30, 4)), mx.broadcast_to(mx.arange(30)[:, None] / 10, (30, 4)))
    )
    w = mx.random.normal((3, 16), key=mx.random.key(1))
    np.testing.assert_array_equal(plain.image_losses(w), zero.image_losses(w))
    np.testing.assert_allclose(plain.image_losses(w), shifted.image_losses(w), rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("shape", [(30, 1), (4,), (4, 30), (1, 4), (30,)])
def test_offsets_of_another_shape_are_refused(tiny_model: Path, shape: tuple[int, ...]) -> None:
    """Most of these would be broadcast."""
    with pytest.raises(ValueError, match=r"give \[images, classes\], \(30, 4\)"):
        make_objective(tiny_model, offsets=mx.zeros(shape))


def test_queries_are_counted(tiny_model: Path) -> None:
    objective = make_objective(tiny_model)
    objective.chunk = 2
    w = mx.zeros((5, 16))
    objective.losses(w)
    objective.image_losses(w[:3])
    assert objective.queries == 8
    objective.jvp(w, w)  # two a direction
    assert objective.queries == 18
    objective.class_features(w[0])  # for validation, which counts its own passes
    assert objective.queries == 18


def test_on_the_cpu_features_are_numpys(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The features of a batch, those of one candidate for validation, and those behind losses."""
    objective, calls = make_objective(tiny_model, backend="numpy"), 0
    plain = SharedPrefixCPU.class_features

    def counted(text: SharedPrefixCPU, contexts: np.ndarray, share: None) -> np.ndarray:
        nonlocal calls
        calls += 1
        return plain(text, contexts, share)

    monkeypatch.setattr(SharedPrefixCPU, "class_features", counted)
    w = mx.zeros((3, 16))
    for number, ask in enumerate((objective.features, objective.losses, lambda x: objective.class_features(x[0]))):
        mx.eval(ask(w))
        assert calls == number + 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_features_of_a_batch_and_their_slopes(tiny_model: Path, backend: BackendName) -> None:
    objective = make_objective(tiny_model, backend=backend)
    w, u = (mx.random.normal((3, 16), key=mx.random.key(k)) for k in (5, 6))
    features = objective.features(w)
    assert objective.queries == 3
    for row, expected in zip(w, features, strict=True):
        np.testing.assert_allclose(np.array(objective.class_features(row)), np.array(expected), atol=1e-6)
    base, slopes = objective.feature_slopes(w[0], u)
    assert objective.queries == 9
    np.testing.assert_allclose(np.array(base), np.array(features[0]), atol=1e-5)
    differences = (objective.features(w[0] + 1e-2 * u) - objective.features(w[0] - 1e-2 * u)) / 2e-2
    np.testing.assert_allclose(np.array(slopes), np.array(differences), atol=5e-3 * float(np.max(np.abs(slopes))))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("offsets", [None, draw_offsets()], ids=["plain", "offsets"])
def test_the_linearised_loss_touches_the_objective(
    tiny_model: Path, backend: BackendName, offsets: mx.array | None
) -> None:
    objective = make_objective(tiny_model, backend=backend, offsets=offsets)
    w, u = (mx.random.normal((2, 16), key=mx.random.key(k)) for k in (5, 6))
    losses, derivatives = objective.jvp(mx.broadcast_to(w[0], u.shape), u)
    value, gradient, _ = objective.linearised(*objective.feature_slopes(w[0], u)).at_zero()
    assert value == pytest.approx(losses[0].item(), rel=1e-5)
    np.testing.assert_allclose(gradient, np.array(derivatives), rtol=1e-4)
