"""The objective's memory: graphs stay lazy or are split, and the plan covers what is really used."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from small_objective import BACKENDS, make_objective, read_least_budget

from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.objective.chunks import pieces_bytes
from sharpzo_mlx.objective.loss import LabelledImages, mean_losses
from sharpzo_mlx.objective.objective import Objective
from sharpzo_mlx.prompts.shared_prefix import SharedPrefixText
from sharpzo_mlx.prompts.space import make_space
from sharpzo_mlx.prompts.tokens import PromptTokens


def test_one_batch_stays_lazy_until_it_is_read(tiny_model: Path) -> None:
    objective = make_objective(tiny_model, backend="graph")
    mx.eval(objective.embeddings)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    losses = objective.losses(mx.zeros((2, 16)))
    assert mx.get_peak_memory() - before < 4096  # nothing is computed: both candidates are a graph
    mx.eval(losses)
    assert mx.get_peak_memory() - before > 4096


def test_layers_are_evaluated_one_by_one_where_a_graph_would_hold_too_much(tiny_model: Path) -> None:
    """A GPU needs this, because it holds all arrays of a graph until its end; the numbers stay the same."""
    whole, parts = (make_objective(tiny_model, backend="graph", memory_budget=budget) for budget in (None, 2 << 20))
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


def test_a_single_candidate_is_taken_layer_by_layer_too(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation computes one candidate, whose whole graph takes gigabytes with a thousand classes."""
    with pytest.raises(UserError, match="one candidate needs") as told:
        make_objective(tiny_model, backend="graph", memory_budget=1)
    least = read_least_budget(told.value)
    small = make_objective(tiny_model, backend="graph", memory_budget=least)
    # even one candidate is too large for a graph
    monkeypatch.setattr("sharpzo_mlx.objective.chunks.GPU_LAYER_WIDTHS", 10**6)
    evaluated: list[tuple[int, ...]] = []
    plain = mx.eval

    def evaluate(*given: mx.array) -> None:
        evaluated.append(given[0].shape)
        plain(*given)

    monkeypatch.setattr(mx, "eval", evaluate)
    features = small.class_features(mx.zeros(16))
    assert len(evaluated) == len(small.text.stages()) + 1
    np.testing.assert_allclose(features, make_objective(tiny_model).class_features(mx.zeros(16)), atol=1e-5)


@pytest.mark.parametrize("derivatives", [False, True])
def test_the_plan_covers_what_a_chunk_of_a_graph_takes(tiny_model: Path, derivatives: bool) -> None:
    budget = 2 << 20
    objective = make_objective(tiny_model, backend="graph", memory_budget=budget)
    chunk = objective.jvp_chunk if derivatives else objective.chunk
    assert 1 < chunk < 1000
    w = mx.zeros((chunk, 16))
    mx.eval(objective.losses(w[:1]))
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(objective.jvp(w, w) if derivatives else objective.losses(w))
    assert mx.get_peak_memory() - before < 1.1 * budget


def test_offsets_need_no_memory_beside_their_own() -> None:
    """The plan of the memory leaves them out: the sum with them takes the place of the logits."""
    keys = mx.random.split(mx.random.key(0), 3)
    shapes = ((2000, 32), (2, 300, 32), (2000, 300))
    embeddings, features, offsets = (mx.random.normal(shape, key=key) for shape, key in zip(shapes, keys, strict=True))
    labels, peaks = mx.zeros(2000, mx.int32), []
    mx.eval(embeddings, features, offsets, labels)
    for added in (None, offsets):
        images = LabelledImages(embeddings, labels, 10.0, added)
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(mx.jvp(lambda x, images=images: mean_losses(x, images), [features], [features]))
        peaks.append(mx.get_peak_memory() - before)
    assert peaks[0] > features.shape[0] * offsets.nbytes
    assert peaks[1] < 1.02 * peaks[0]


def test_the_least_budget_of_a_derivative_holds() -> None:
    """With few tokens in wide layers half of the memory is that of an activation's blocks."""
    tower = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 2, "num_attention_heads": 8}
    text = tower | {"vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513}
    half = CLIPModel(CLIPConfig.from_dict({"model_type": "clip", "projection_dim": 24, "text_config": text}), ("text",))
    tokens = PromptTokens(512, (1, 2), tuple((n, n + 40, n + 80, 513) for n in range(3, 13)))
    space = make_space(half.text_model, tokens, dimension=8, relative_scale=1.0, projection_std=None, seed=0)
    specialised = SharedPrefixText(half.text_model, half.text_projection, tokens)
    embeddings, w = mx.random.normal((20, 24), key=mx.random.key(0)), mx.zeros((1, 8))

    def objective(budget: int) -> Objective:
        labels = [*range(10)] * 2
        return Objective(specialised, space, embeddings, labels, logit_scale=1.0, memory_budget=budget, backend="graph")

    with pytest.raises(UserError, match="one forward-mode derivative needs") as told:
        objective(5 * 10**6).jvp(w, w)
    least = read_least_budget(told.value)
    enough = objective(least)
    mx.eval(enough.jvp(w, w))
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(enough.jvp(w, w))
    assert least / 3 < mx.get_peak_memory() - before < 1.1 * least


def test_the_plan_covers_what_numpy_takes(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # pieces as small as this tower's candidates
    monkeypatch.setattr("sharpzo_mlx.prompts.cpu_pieces.ROWS", 96)
    sizes = make_objective(tiny_model, backend="numpy").backend.piece_sizes
    assert sizes is not None
    one = pieces_bytes(sizes)
    budget = 4 * one
    objective = make_objective(tiny_model, backend="numpy", memory_budget=budget)
    assert 100 < objective.chunk < 100_000
    w = mx.zeros((objective.chunk, 16))
    mx.eval(objective.losses(w[:1]))
    tracemalloc.start()
    objective.losses(w)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert one / 2 < peak < 1.1 * budget


def test_a_budget_below_one_candidate_is_refused(tiny_model: Path) -> None:
    for backend in BACKENDS:
        with pytest.raises(UserError, match="memory-budget"):
            make_objective(tiny_model, backend=backend, memory_budget=1000)


def test_without_a_budget_one_candidate_always_fits(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharpzo_mlx.objective.chunks.DEFAULT_BUDGET", 1000)
    assert make_objective(tiny_model).chunk == 1
