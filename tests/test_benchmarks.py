"""The benchmarks' own arithmetic: operations are those that are carried out, thresholds are as described."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import mlx.core as mx
import numpy as np
import pytest

from sharpzo_mlx.clip import cpu_layers
from sharpzo_mlx.clip.checkpoint import load_model
from sharpzo_mlx.runs.step_log import StepRecord

SCRIPTS = ("estimators", "heads", "memory", "queries", "scaling", "time_to_accuracy")


@pytest.fixture
def scripts(load_benchmark: Callable[[str], ModuleType]) -> dict[str, ModuleType]:
    """The scripts as modules."""
    return {name: load_benchmark(name) for name in SCRIPTS}


def test_operations_are_those_carried_out(
    scripts: dict[str, ModuleType], tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries, counted = scripts["queries"], 0
    plain = cpu_layers.Affine.__call__

    def counting(self: cpu_layers.Affine, x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        nonlocal counted
        counted += 2 * x.size * self.weight.shape[0]
        return plain(self, x, out)

    model = load_model(tiny_model, towers=("text",))
    # sixteen suffixes of three tokens that share nothing: one full block of 48 places
    tokens = queries.PromptTokens(512, (1, 2, 3, 4), tuple((n, n + 100, 513) for n in range(20, 36)))
    objective = queries.make_query_objective(model, tokens, dimension=8, backend="numpy")
    monkeypatch.setattr(cpu_layers.Affine, "__call__", counting)
    mx.eval(objective.losses(mx.zeros((3, 8))))
    logits = 2 * 16 * 16 * 16 * 24
    expected = queries.our_gflop(objective, layers=3, width=32, joint=24) * 1e9
    # the formula is for layers whose hidden width is four times their own; the tiny model's is twice
    short = 2 * 2 * 32 * (2 * 32) * (objective.text.tokens * 2 + 16)
    assert counted / 3 + logits == pytest.approx(expected - short, rel=1e-12)


def test_an_imagenet_class_is_a_prompt(scripts: dict[str, ModuleType]) -> None:
    tokens = scripts["queries"].make_prompts(1000, "imagenet")
    assert tokens.prefix == (320, 1125, 539, 320)  # a photo of a
    assert len(tokens.suffixes) == 1000
    assert {suffix[-1] for suffix in tokens.suffixes} == {49407}


def test_threshold_and_first_to_reach_it(scripts: dict[str, ModuleType]) -> None:
    timing = scripts["time_to_accuracy"]

    def validated(accuracy: float, queries: int) -> StepRecord:
        return StepRecord(1, 1, 1, 1.0, accuracy, 1.0, accuracy, queries, 1, None, 0.0, 0.0)

    slow = [validated(0.2, 5), validated(0.3, 10)]
    fast = [validated(0.31, 2), validated(0.6, 4)]
    threshold = timing.threshold_of([slow, fast], 0.1)
    assert threshold == pytest.approx(0.1 + 0.95 * 0.2)
    assert timing.reached(slow, threshold) == slow[1]
    assert timing.reached(fast, threshold) == fast[0]
    assert timing.reached(slow, 0.31) is None


@pytest.mark.parametrize("bits", [None, 8])
def test_exact_weights_are_the_rounded_ones(
    scripts: dict[str, ModuleType], tiny_model: Path, bits: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The truth of a precision is the same function: float16's weights, and quantised ones, in float32."""
    estimators = scripts["estimators"]
    ids = mx.array([[512, 5, 6, 513]])
    monkeypatch.setattr(estimators, "GROUP", 32)
    dtype = mx.float32 if bits else mx.float16
    rounded, exact = (estimators.text_half(tiny_model, dtype, bits, exact=truth) for truth in (False, True))
    plain = load_model(tiny_model, towers=("text",))
    a, b, c = (np.array(model.text_features(ids)) for model in (rounded, exact, plain))
    assert np.max(np.abs(b - c)) > 1e-5  # rounding has changed the function
    assert np.max(np.abs(a - b)) < (1e-5 if bits else 1e-2)
    layer = exact.text_model.encoder.layers[0].mlp.fc1
    assert layer.weight.dtype == mx.float32
    if bits is None:
        expected = plain.text_model.encoder.layers[0].mlp.fc1.weight.astype(mx.float16).astype(mx.float32)
        np.testing.assert_array_equal(np.array(layer.weight), np.array(expected))


def test_cosine(scripts: dict[str, ModuleType]) -> None:
    cosine = scripts["estimators"].cosine
    assert cosine(mx.array([1.0, 0.0]), mx.array([1.0, 1.0])) == pytest.approx(0.5**0.5)
    assert cosine(mx.zeros(2), mx.array([1.0, 1.0])) == 0.0


def test_arithmetic_of_scale_covers_weights_and_features(scripts: dict[str, ModuleType], tiny_model: Path) -> None:
    scaling, queries = scripts["scaling"], scripts["queries"]
    model = load_model(tiny_model, towers=("text",))
    tokens = queries.PromptTokens(512, (1, 2, 3, 4), tuple((n, 100, 513) for n in range(4)))
    objective = queries.make_query_objective(model, tokens, dimension=8)
    fixed = scaling.count_fixed_bytes(objective, model.text_model.encoder)
    layer = 4 * (32 * 32 + 32) + 2 * 2 * 32 + 2 * 32 * 64 + 64 + 32
    assert fixed == 4 * (3 * layer + 4 * 32 * 8 + 64 * 24)


def test_means_over_sets_count_the_tuned_draws_alone(scripts: dict[str, ModuleType]) -> None:
    """A set is the mean of its draws, whatever their number; a draw without a search is in no mean."""
    heads = scripts["heads"]
    draws = [("a", "a", 0, 0.2), ("a", "a", 1, 0.4), ("b", "b", 0, 0.5), ("b", "c", 0, 0.1), ("b", "b", 1, 0.9)]
    found = [
        heads.Measured(trained, target, shots, seed, method, accuracy + 0.01 * shots, ece=0.5 * accuracy)
        for trained, target, seed, accuracy in draws
        for shots in heads.SHOTS
        for method in heads.METHODS
        if "SharpZO" not in method or (trained, seed) != ("b", 1)
    ]
    same, away = (heads.format_means_table(found, shifted=shifted) for shifted in (False, True))
    assert same[0].count("|") == same[2].count("|")
    assert same[2] == "| zero-shot | 41.0 | 42.0 | 44.0 | 48.0 | 56.0 | 46.2 | 20.0 |"
    assert away[2] == "| zero-shot | 11.0 | 12.0 | 14.0 | 18.0 | 26.0 | 16.2 | 5.0 |"
