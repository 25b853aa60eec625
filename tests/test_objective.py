"""The objective: its losses are the plain formula's, chunks change nothing, every query is counted."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from sharpzo_mlx.clip.checkpoint import load_model
from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.handle import load
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.objective.objective import Objective, cross_entropies, score
from sharpzo_mlx.prompts.prompt import PromptSpace, PromptTokens, make_space, tokenise_prompts
from sharpzo_mlx.prompts.shared_prefix import PromptedText
from sharpzo_mlx.prompts.shared_prefix_cpu import HostText

NAMES = ("cat", "dog", "barn owl", "ox")


@dataclass
class Images:
    embeddings: mx.array
    labels: list[int]


@pytest.fixture
def images() -> Images:
    x = mx.random.normal((30, 24), key=mx.random.key(3))
    return Images(x / mx.linalg.norm(x, axis=-1, keepdims=True), [n % 4 for n in range(30)])


def build(folder: Path, images: Images, *, on_host: bool | None = None, memory_budget: int | None = None) -> Objective:
    half = load_model(folder, towers=("text",))
    tokens = tokenise_prompts(load(folder).tokenizer, "a photo of a {}.", NAMES)
    space = make_space(half.text_model, tokens, dimension=16, relative_scale=20.0, projection_std=None, seed=1)
    text = PromptedText(half.text_model, half.text_projection, tokens, on_host=on_host)
    return Objective(text, space, images.embeddings, images.labels, logit_scale=12.0, memory_budget=memory_budget)


def asked_for(error: UserError) -> int:
    """The bytes that a refusal of a memory budget says are needed."""
    return int(str(error).split("needs ")[1].split("MB")[0]) * 10**6


def plain_losses(folder: Path, space: PromptSpace, images: Images, w: mx.array) -> np.ndarray:
    """L by the definition: each class's whole 77-token text, one at a time, softmax in float64."""
    half, tokenizer = load_model(folder, towers=("text",)), load(folder).tokenizer
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
        logits = 12.0 * np.array(images.embeddings, np.float64) @ text.T
        logits -= logits.max(axis=1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        rows.append(-log_p[np.arange(len(images.labels)), images.labels].mean())
    return np.array(rows)


@pytest.mark.parametrize("on_host", [False, True])
def test_losses_are_the_definition(tiny_model: Path, images: Images, on_host: bool) -> None:
    objective = build(tiny_model, images, on_host=on_host)
    w = mx.random.normal((5, 16), key=mx.random.key(7))
    expected = plain_losses(tiny_model, objective.space, images, w)
    assert np.ptp(expected) > 1e-3  # a hundred times the tolerance
    np.testing.assert_allclose(objective.losses(w), expected, rtol=1e-5)
    np.testing.assert_allclose(mx.mean(objective.image_losses(w), axis=1), expected, rtol=1e-5)


def test_chunks_change_nothing_but_rounding(tiny_model: Path, images: Images) -> None:
    w, u = (mx.random.normal((23, 16), key=mx.random.key(n)) for n in (1, 2))
    whole, parts = build(tiny_model, images), build(tiny_model, images)
    parts.chunk, parts.jvp_chunk = 4, 3
    np.testing.assert_allclose(parts.losses(w), whole.losses(w), rtol=1e-5)
    # a single image's loss is the difference of logits of about 12, whose own rounding is 1e-6
    np.testing.assert_allclose(parts.image_losses(w), whole.image_losses(w), rtol=1e-5, atol=2e-6)
    for one, other in zip(parts.jvp(w, u), whole.jvp(w, u), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_blocks_of_images_change_nothing(tiny_model: Path, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    w = mx.random.normal((3, 16), key=mx.random.key(1))
    objectives = [build(tiny_model, images, on_host=on_host) for on_host in (False, True)]
    whole = [np.array(objective.losses(w)) for objective in objectives]
    monkeypatch.setattr("sharpzo_mlx.objective.objective.LOGITS_AT_ONCE", 7 * 4 * 3)
    monkeypatch.setattr("sharpzo_mlx.prompts.shared_prefix_cpu.LOGITS_AT_ONCE", 7 * 4)
    for objective, expected in zip(objectives, whole, strict=True):
        np.testing.assert_allclose(objective.losses(w), expected, rtol=1e-5)


@pytest.mark.parametrize("on_host", [False, True])
def test_directional_derivatives_are_autograds(tiny_model: Path, images: Images, on_host: bool) -> None:
    objective = build(tiny_model, images, on_host=on_host)
    w, u = (mx.random.normal((4, 16), key=mx.random.key(n)) for n in (1, 2))
    losses, slopes = objective.jvp(w, u)
    gradient = mx.grad(lambda x: mx.sum(objective.losses(x)))(w)
    np.testing.assert_allclose(losses, objective.losses(w), rtol=1e-5)
    np.testing.assert_allclose(slopes, mx.sum(gradient * u, axis=1), rtol=1e-3, atol=1e-6)
    _, (through,) = mx.jvp(objective.losses, [w], [u])  # values from anywhere, derivatives of the graph
    np.testing.assert_allclose(through, slopes, rtol=1e-3, atol=1e-6)


def test_queries_are_counted(tiny_model: Path, images: Images) -> None:
    objective = build(tiny_model, images)
    objective.chunk = 2
    w = mx.zeros((5, 16))
    objective.losses(w)
    objective.image_losses(w[:3])
    assert objective.queries == 8
    objective.jvp(w, w)  # two a direction
    assert objective.queries == 18
    objective.class_features(w[0])  # validation, counted by who asks
    assert objective.queries == 18


def test_one_batch_stays_lazy_until_it_is_read(tiny_model: Path, images: Images) -> None:
    objective = build(tiny_model, images, on_host=False)
    mx.eval(objective.embeddings)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    losses = objective.losses(mx.zeros((2, 16)))
    assert mx.get_peak_memory() - before < 4096  # nothing computed: the pair of forwards is a graph
    mx.eval(losses)
    assert mx.get_peak_memory() - before > 4096


def test_layers_are_evaluated_one_by_one_where_a_graph_would_hold_too_much(tiny_model: Path, images: Images) -> None:
    """As a GPU needs it, which holds all arrays of a graph until it has ended; the numbers stay the same."""
    whole, parts = (build(tiny_model, images, on_host=False, memory_budget=budget) for budget in (None, 2 << 20))
    w = mx.random.normal((parts.chunk, 16), key=mx.random.key(3))
    mx.eval(w, whole.embeddings, parts.embeddings)
    for objective, lazy in ((whole, True), (parts, False)):
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        held = objective.features(w)
        assert (mx.get_peak_memory() - before < 4096) == lazy
        mx.eval(held)
    np.testing.assert_array_equal(parts.features(w), whole.features(w))
    np.testing.assert_array_equal(parts.losses(w), whole.losses(w))


def test_on_the_cpu_features_are_numpys(tiny_model: Path, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a batch, of one that is validated, and of losses."""
    objective, calls = build(tiny_model, images, on_host=True), 0
    plain = HostText.class_features

    def counted(host: HostText, contexts: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        return plain(host, contexts)

    monkeypatch.setattr(HostText, "class_features", counted)
    w = mx.zeros((3, 16))
    for number, ask in enumerate((objective.features, objective.losses, lambda x: objective.class_features(x[0]))):
        mx.eval(ask(w))
        assert calls == number + 1


def test_a_single_candidate_is_taken_layer_by_layer_too(
    tiny_model: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is validated is one: with a thousand classes its whole graph is gigabytes."""
    with pytest.raises(UserError, match="one candidate needs") as told:
        build(tiny_model, images, on_host=False, memory_budget=1)
    least = asked_for(told.value)
    small = build(tiny_model, images, on_host=False, memory_budget=least)
    monkeypatch.setattr("sharpzo_mlx.objective.objective.GPU_LAYER_WIDTHS", 10**6)  # even one is too much for a graph
    evaluated: list[tuple[int, ...]] = []
    plain = mx.eval

    def evaluate(*given: mx.array) -> None:
        evaluated.append(given[0].shape)
        plain(*given)

    monkeypatch.setattr(mx, "eval", evaluate)
    features = small.class_features(mx.zeros(16))
    assert len(evaluated) == len(small.text.stages()) + 1
    np.testing.assert_allclose(features, build(tiny_model, images).class_features(mx.zeros(16)), atol=1e-5)


@pytest.mark.parametrize("derivatives", [False, True])
def test_the_plan_covers_what_a_chunk_of_a_graph_takes(tiny_model: Path, images: Images, derivatives: bool) -> None:
    budget = 2 << 20
    objective = build(tiny_model, images, on_host=False, memory_budget=budget)
    chunk = objective.jvp_chunk if derivatives else objective.chunk
    assert 1 < chunk < 1000
    w = mx.zeros((chunk, 16))
    mx.eval(objective.losses(w[:1]))
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(objective.jvp(w, w) if derivatives else objective.losses(w))
    assert mx.get_peak_memory() - before < 1.1 * budget


def test_the_least_budget_of_a_derivative_holds() -> None:
    """With few tokens in wide layers half of it is what an activation's blocks hold."""
    tower = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 2, "num_attention_heads": 8}
    text = tower | {"vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513}
    half = CLIPModel(CLIPConfig.from_dict({"model_type": "clip", "projection_dim": 24, "text_config": text}), ("text",))
    tokens = PromptTokens(512, (1, 2), tuple((n, n + 40, n + 80, 513) for n in range(3, 13)))
    space = make_space(half.text_model, tokens, dimension=8, relative_scale=1.0, projection_std=None, seed=0)
    specialised = PromptedText(half.text_model, half.text_projection, tokens, on_host=False)
    embeddings, w = mx.random.normal((20, 24), key=mx.random.key(0)), mx.zeros((1, 8))

    def objective(budget: int) -> Objective:
        return Objective(specialised, space, embeddings, [*range(10)] * 2, logit_scale=1.0, memory_budget=budget)

    with pytest.raises(UserError, match="one forward-mode derivative needs") as told:
        objective(5 * 10**6).jvp(w, w)
    least = asked_for(told.value)
    enough = objective(least)
    mx.eval(enough.jvp(w, w))
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(enough.jvp(w, w))
    assert least / 3 < mx.get_peak_memory() - before < 1.1 * least


def test_the_plan_covers_what_numpy_takes(tiny_model: Path, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "sharpzo_mlx.prompts.shared_prefix_cpu.ROWS", 96
    )  # of this tower, pieces as small as its candidates
    objective = build(tiny_model, images, on_host=True)
    assert objective.text.host is not None
    one = objective.text.host.piece_bytes()
    budget = 4 * one
    objective = build(tiny_model, images, on_host=True, memory_budget=budget)
    assert 100 < objective.chunk < 100_000
    w = mx.zeros((objective.chunk, 16))
    mx.eval(objective.losses(w[:1]))
    tracemalloc.start()
    objective.losses(w)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert one / 2 < peak < 1.1 * budget


def test_a_budget_below_one_candidate_is_refused(tiny_model: Path, images: Images) -> None:
    for on_host in (False, True):
        with pytest.raises(UserError, match="memory-budget"):
            build(tiny_model, images, on_host=on_host, memory_budget=1000)


def test_without_a_budget_one_candidate_always_fits(
    tiny_model: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharpzo_mlx.objective.objective.DEFAULT_BUDGET", 1000)
    assert build(tiny_model, images).chunk == 1


def test_losses_are_float32_whatever_comes_in() -> None:
    class_features = mx.random.normal((2, 3, 8), key=mx.random.key(0))
    embeddings = mx.random.normal((5, 8), key=mx.random.key(1))
    losses = cross_entropies(class_features, embeddings, mx.array([0, 1, 2, 0, 1]), 100.0)
    assert losses.dtype == mx.float32
    assert losses.shape == (2, 5)


def test_score_by_hand() -> None:
    class_features = mx.array([[1.0, 0.0], [0.0, 1.0]])
    embeddings = mx.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.8, 0.6]])
    result = score(class_features, embeddings, mx.array([0, 1, 0, 0]), 1.0)
    assert result.accuracy == 0.75
    gaps = np.array([1.0, 1.0, -0.2, 0.2])  # right logit minus wrong one
    assert result.loss == pytest.approx(np.log1p(np.exp(-gaps)).mean(), rel=1e-6)


@pytest.mark.parametrize("on_host", [False, True])
def test_features_of_a_batch_and_their_slopes(tiny_model: Path, images: Images, on_host: bool) -> None:
    objective = build(tiny_model, images, on_host=on_host)
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


def test_the_linearised_loss_touches_the_objective(tiny_model: Path, images: Images) -> None:
    objective = build(tiny_model, images)
    w, u = (mx.random.normal((2, 16), key=mx.random.key(k)) for k in (5, 6))
    losses, derivatives = objective.jvp(mx.broadcast_to(w[0], u.shape), u)
    value, gradient, _ = objective.linearised(*objective.feature_slopes(w[0], u))(np.zeros(2))
    assert value == pytest.approx(losses[0].item(), rel=1e-5)
    np.testing.assert_allclose(gradient, np.array(derivatives), rtol=1e-4)
