"""The benchmarks' own arithmetic: operations are those that are carried out, thresholds are as described."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from sharpzo_mlx.clip import cpu_layers
from sharpzo_mlx.clip.checkpoint import load_model
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.runs.step_log import StepRecord

SCRIPTS = (
    "estimators",
    "head_features",
    "head_tables",
    "heads",
    "json_lines",
    "label_tables",
    "labels",
    "gpu_counts",
    "memory",
    "queries",
    "scaling",
    "step_cost",
    "time_to_accuracy",
)


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


def make_result(script: ModuleType, trained: str, target: str, method: str, **changes: Any) -> Any:
    values = {"shots": 1, "seed": 0, "accuracy": 0.5, "ece": 0.1, "floor": 0.05, "opening": None, "seconds": 2.0}
    return script.Measured(trained=trained, target=target, method=method, **{**values, **changes})


def test_a_pair_counts_once_in_a_mean_and_the_worst_draw_is_shown(scripts: dict[str, ModuleType]) -> None:
    tables, draws = scripts["head_tables"], [("a", 0, 0.2), ("a", 1, 0.4), ("b", 0, 0.5)]
    found = [
        make_result(tables, name, name, method, seed=seed, shots=shots, accuracy=accuracy + gain * (1 - 2 * seed))
        for name, seed, accuracy in draws
        for shots in (1, 4)
        for method, gain in (("zero-shot", 0.0), ("head", 0.06))
    ]
    lines = tables.format_table(found)
    assert lines[0].count("|") == lines[2].count("|")
    assert lines[2] == "| Zero-shot | 40.0 | 40.0 | +0.0 | 10.0 | 5.0 | - | 2.0 |"
    assert lines[3] == "| Words + Gaussians + guard | 43.0 | 43.0 | -6.0 | 10.0 | 5.0 | - | 2.0 |"
    alone = tables.format_table([one for one in found if one.trained == "a"])
    assert alone[2].startswith("| Zero-shot | 30.0 ± 14.1 | 30.0 ± 14.1 | +0.0 |")


def test_means_are_over_the_draws_that_all_methods_have(scripts: dict[str, ModuleType]) -> None:
    tables = scripts["head_tables"]
    found = [make_result(tables, "a", "a", method, seed=seed) for method in tables.METHODS for seed in (0, 1)]
    found += [make_result(tables, "a", "b", method) for method in tables.METHODS]
    found += [make_result(tables, "a", "a", method) for method in tables.TUNED]
    common = tables.select_common(found, tables.METHODS + tables.TUNED)
    assert {one.draw for one in common} == {("a", "a", 1, 0)}
    text = tables.format_tables(found)
    assert text.count("In distribution, means over the sets") == 2  # of all seeds without SharpZO, of seed 0 with it
    assert text.count("Under shift, means over the sets") == 1


def test_the_floor_of_the_calibration_error(scripts: dict[str, ModuleType]) -> None:
    """Right probabilities are at the floor, which falls with the number of images; others are above it."""
    heads, rng = scripts["heads"], np.random.default_rng(0)
    floors = []
    for images in (200, 20_000):
        logits = rng.normal(size=(images, 3)) * 2
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        labels = (rng.random((images, 1)) > shares.cumsum(axis=1)).sum(axis=1)
        right, sure = (heads.find_outcomes(mx.array(factor * logits), labels) for factor in (1, 3))
        floors.append(heads.simulate_floor(right))
        assert heads.calibration_error(right) == pytest.approx(floors[-1], rel=0.6)
        assert heads.calibration_error(sure) > 2 * heads.simulate_floor(sure)
    assert floors[1] < floors[0] / 5


def test_results_survive_an_interruption(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    lines, path = scripts["json_lines"], tmp_path / "new" / "a.jsonl"
    assert lines.read_lines(path) == []
    lines.append_lines(path, [{"a": 1}, {"a": 2}])
    with path.open("a") as file:
        file.write('{"a": 3')  # cut off
    lines.append_lines(path, [{"a": 4}])
    assert lines.read_lines(path) == [{"a": 1}, {"a": 2}, {"a": 4}]


def write_features(path: Path, *, shift: float, text: bool) -> Path:
    """A file of two classes around the axes 0 and 1, shifted along axis 2."""
    rng = np.random.default_rng(0)

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.repeat(np.arange(2), count)
        x = np.eye(6)[labels] + shift * np.eye(6)[2] + 0.1 * rng.normal(size=(2 * count, 6))
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16), labels

    arrays: dict[str, Any] = {"text": np.eye(6)[:2]} if text else {}
    for name, count in {"train1": 1, "train4": 4, "val": 9, "test": 40}.items():
        arrays[f"{name}_x"], arrays[f"{name}_y"] = draw(count)
    np.savez(path, **arrays)
    return path


def test_stored_features(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    script = scripts["head_features"]
    paths = [
        write_features(tmp_path / f"{name}.npz", shift=shift, text=name == "words")
        for name, shift in (("words", 0.0), ("far", 3.0))
    ]
    found = list(script.measure_files(paths, 2, {("words", 1, 0)}))
    assert [(one.file, one.shots, one.seed) for one in found] == [
        ("words", 1, 1), ("words", 4, 0), ("words", 4, 1), ("far", 1, 0), ("far", 1, 1), ("far", 4, 0), ("far", 4, 1)
    ]  # fmt: skip
    one, without = found[1], found[-1]
    assert (one.accuracies["head"], one.auroc) == (1.0, {"far": 1.0})
    assert one.lost == one.accuracies["unguarded"] - one.accuracies["head"]
    assert (without.accuracies["joined"], without.lost) == (None, None)
    assert 0.8 < one.opened <= 1
    assert "| 4 | 100.0 | - | 100.0 | 100.0 |" in script.format_tables(found)
    np.savez(tmp_path / "a.npz", val_x=np.eye(2))
    with pytest.raises(UserError, match=r"a\.npz: no file of features"):
        script.FeatureFile.read(tmp_path / "a.npz")


def test_auroc(scripts: dict[str, ModuleType]) -> None:
    auroc = scripts["head_features"].measure_auroc
    own, foreign = np.array([1.0, 2.0, 3.0]), np.array([2.0, 9.0])
    assert auroc(own, foreign) == pytest.approx(np.mean([(f > o) + 0.5 * (f == o) for f in foreign for o in own]))


def test_a_step_of_few_classes_waits_twice_for_a_gpu(scripts: dict[str, ModuleType]) -> None:
    """For the probes with the model at a = 0, and for the trials; the rest is short and stays on the host."""
    _, gradients, waits = scripts["step_cost"].measure_step(7, "graph", 2)
    assert gradients >= 2
    assert waits == 2


def test_waits_are_counted_where_an_array_has_not_been_computed(scripts: dict[str, ModuleType]) -> None:
    waits = scripts["step_cost"].Waits()
    with waits.counting():
        x = mx.ones(3) + 1
        assert np.array(x).tolist() == [2, 2, 2]  # waits
        mx.eval(x, [x])  # is there
        mx.eval([x * 2])  # waits
        np.array(mx.random.normal((3,), stream=mx.cpu))  # not for a GPU
        np.array(mx.random.normal((3,)))  # waits
        mx.eval(x * 4)  # waits
    assert waits.count == 4


def test_kernels_and_bytes_are_those_of_the_graph(scripts: dict[str, ModuleType]) -> None:
    """Views are free, a broadcast operand is read once, and a transposed array is copied to be reshaped."""
    count = scripts["gpu_counts"].count_graph
    x = mx.zeros((4, 8))  # 128 bytes
    product = count(lambda x: (x @ x.T + 1.0)[:2].reshape(-1), x)
    assert product.kernels == {"Matmul": 1, "Add": 1}
    assert product.bytes == {"Matmul": 2 * 128 + 64, "Add": 64 + 4 + 64}
    copied = count(lambda x: x.T.reshape(-1), x)
    assert copied.kernels == {"Reshape": 1}
    assert copied.bytes == {"Reshape": 2 * 128}


def test_a_search_waits_seldom_for_a_gpu(scripts: dict[str, ModuleType]) -> None:
    """A generation for its losses with the state, and for the validation; a step once more, for the trials."""
    counts = scripts["gpu_counts"]
    with counts.pretended_gpu():
        objective = counts.make_objective("ViT-B/32", 2)
        assert counts.count_waits(objective, 2, generations=2) == 2
        assert counts.count_waits(objective, 2, generations=0) == 3
        found = counts.count_query(objective)
    assert found.kernels["AddMM"] == 72  # six products with a bias in each of twelve layers
    assert found.kernels["Abs"] == 12  # activations of one kernel each


def test_labels_are_changed_as_said(scripts: dict[str, ModuleType]) -> None:
    labels = np.repeat(np.arange(5), 20)
    changed = scripts["labels"].change_labels(labels, 5, 0.1, np.random.default_rng(0))
    assert (changed != labels).sum() == 10
    assert all((changed[labels == k] == k).sum() >= 2 for k in range(5))
    crossing = scripts["label_tables"].crossing
    assert crossing([10, 20, 30], [0.5, 0.6, 0.8], 0.7) == pytest.approx(25)
    assert crossing([10, 20], [0.5, 0.6], 0.4) == 10
    assert crossing([10, 20], [0.5, 0.6], 0.7) is None
