"""The runner of comparisons: equal terms for all, cells that are kept, failures that stay alone, and the tables."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import sharpzo_mlx as sz
from sharpzo_mlx.cli import comparison_tables, main
from sharpzo_mlx.comparison import dataset_runner, plots, tables
from sharpzo_mlx.comparison.dataset_runner import DatasetResult, Finished
from sharpzo_mlx.comparison.methods import coop, registry
from sharpzo_mlx.comparison.methods.classifiers import CosineClassifier
from sharpzo_mlx.comparison.methods.method import Method, Progress, Steps, Task
from sharpzo_mlx.comparison.results import CURVE, Cell, Figures
from sharpzo_mlx.comparison.runner import Comparison, _labelled, compare, compare_steps
from sharpzo_mlx.datasets.splits import draw_split
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.objective.loss import Score, score_features

CONFIG = sz.TuneConfig(shots=4, query_budget=40).with_settings(
    {"space.dimension": 8, "space.relative_scale": 20.0, "stage1.population": 6}
)
CLOCK = ("seconds", "peak_memory_mb")
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def clip(tiny_model: Path) -> sz.Clip:
    return sz.load(tiny_model)


@pytest.fixture(autouse=True)
def _short_coop(monkeypatch: pytest.MonkeyPatch) -> None:
    """CoOp has its own length, whatever the budget; here it is a few steps."""
    quick = {"optimiser": "adam", "learning_rate": 1e-3, "steps": 3, "batch": None, "averaging": 0.9}
    methods = tuple(replace(method, published=quick, tuned={**quick, "steps": 4}) for method in coop.METHODS)
    monkeypatch.setattr(coop, "METHODS", methods)


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Task]]:
    """Every start of a method from now on, with its task."""
    seen: list[tuple[str, Task]] = []
    plain = registry.method

    def watched(name: str) -> Method:
        method = plain(name)

        def start(task: Task, options: Mapping[str, Any]) -> Steps:
            seen.append((name, task))
            return method.start(task, options)

        return replace(method, start=start)

    monkeypatch.setattr(registry, "method", watched)
    return seen


def broken(monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException) -> None:
    """Let a method fail after its first record."""
    plain = registry.method

    def start(task: Task, options: Mapping[str, Any]) -> Steps:
        score = task.problem({"space.dimension": 8}).validate(mx.zeros(8))
        yield Progress(0, score, score, lambda: CosineClassifier(mx.zeros((3, 24)), 1.0))
        raise error

    def found(asked: str) -> Method:
        return replace(plain(asked), start=start) if asked == name else plain(asked)

    monkeypatch.setattr(registry, "method", found)


def timeless(value: Any) -> Any:
    """A record without what the clock and the memory said."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in CLOCK}
    return [timeless(item) for item in value] if isinstance(value, (list, tuple)) else value


def test_all_methods_meet_on_equal_terms(
    clip: sz.Clip, photos: Path, tmp_path: Path, tasks: list[tuple[str, Task]]
) -> None:
    found = compare(clip, photos, CONFIG, methods="bbt,coop", seeds=2, output=tmp_path / "out")
    assert [name for name, _ in tasks] == ["zero-shot", "bbt", "coop"] * 2
    for seed in (0, 1):
        own = [task for _, task in tasks if task.config.seed == seed]
        assert {(task.train.paths, task.val.paths, task.query_budget) for task in own} == {
            (own[0].train.paths, own[0].val.paths, 40)
        }
        run = sz.tune(clip, photos, replace(CONFIG, seed=seed), output=tmp_path / f"run-{seed}")
        for split, images in (("train", own[0].train), ("val", own[0].val)):
            assert [str(photos / path) for path, _ in run.record.images.by_split()[split]] == list(
                map(str, images.paths)
            )
        cell = next(c for c in found.datasets[0].cells if (c.method, c.seed) == ("zero-shot", seed))
        assert cell.figures is not None
        assert cell.figures.test == pytest.approx(run.results.zero_shot)
    assert tasks[0][1].train.paths != tasks[-1][1].train.paths
    assert found.datasets[0].images == {"train": 12, "val": 12, "test": 12}


def test_figures_are_those_of_what_the_method_returned(
    clip: sz.Clip, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method whose classifier is known: its accuracies by a plain computation, on the test split and elsewhere."""
    classifier = np.random.default_rng(0).standard_normal((3, 24)).astype(np.float32)
    told: list[Score] = []

    def start(task: Task, options: Mapping[str, Any]) -> Steps:
        for queries in (0, 7, 31):
            told.append(score_features(mx.array(classifier) * (queries - 8), task.val, 1.0))
            best = told[0] if queries < 31 else told[-1]
            kept = CosineClassifier(mx.array(-classifier if queries < 31 else classifier), 3.0)
            yield Progress(queries, told[-1], best, partial(replace, kept), image_passes=2 * queries)
        return kept

    monkeypatch.setattr(registry, "method", lambda name: Method(name, name, "", start))
    shifted = tmp_path / "elsewhere"
    for name in ("dog", "cat"):  # a subset of the classes, in another order of listing
        shutil.copytree(photos / name, shifted / name)
    output = tmp_path / "out"
    found = compare(clip, photos, CONFIG, methods="bbt", seeds=1, shift=[shifted], output=output)
    figures = found.datasets[0].cells[1].figures
    assert figures is not None
    assert (figures.queries, figures.image_passes) == (31, 62)
    assert figures.val == told[2].accuracy
    assert figures.curve["queries"] == [0, 7, 31]
    assert figures.curve["accuracy"] == [score.accuracy for score in told[:3]]
    assert figures.curve["best_loss"] == [told[0].loss] * 2 + [told[2].loss]
    assert tuple(figures.curve) == CURVE
    features = np.array(clip.encode_images(sorted(shifted.rglob("*.png"))))
    order = ["barn owl", "cat", "dog"]
    labels = [order.index(path.parent.name) for path in sorted(shifted.rglob("*.png"))]
    expected = np.mean((features @ classifier.T).argmax(axis=1) == labels)
    assert figures.shift == {"elsewhere": pytest.approx(expected)}
    split = draw_split(photos, shots=4, seed=0).test
    assert split is not None
    own = np.array(clip.encode_images(split.paths)) @ classifier.T
    assert figures.test == pytest.approx(np.mean(own.argmax(axis=1) == split.labels))
    before = pytest.approx(np.mean(own.argmin(axis=1) == split.labels))
    assert figures.curve["test"] == [before, before, figures.test]


def test_a_comparison_that_was_killed_goes_on_to_the_same_record(clip: sz.Clip, photos: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"methods": "bbt,zo", "seeds": 2}
    whole = compare(clip, photos, CONFIG, output=tmp_path / "whole", **options)
    events = compare_steps(clip, photos, CONFIG, output=tmp_path / "cut", **options)
    for event in events:
        if isinstance(event, Finished) and event.done == 4:
            break
    del events  # between two cells, as a kill would
    assert not (tmp_path / "cut" / "comparison.json").exists()
    kept = {path: path.read_bytes() for path in (tmp_path / "cut" / "cells").iterdir()}
    assert len(kept) == 4
    rest = list(compare_steps(clip, photos, CONFIG, output=tmp_path / "cut", **options))
    assert [event.found for event in rest if isinstance(event, Finished)] == [True] * 4 + [False] * 2
    assert {path: path.read_bytes() for path in kept} == kept
    one, other = (json.loads((tmp_path / name / "comparison.json").read_text()) for name in ("whole", "cut"))
    assert timeless(one) == timeless(other)
    assert timeless(one) == timeless(json.loads(json.dumps(whole.to_dict())))


def test_cells_of_other_sources_are_left_alone(
    clip: sz.Clip, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(clip, photos, CONFIG, methods="zero-shot", seeds=1, output=tmp_path / "out")
    monkeypatch.setattr(dataset_runner, "source_digest", lambda: "others")
    events = compare_steps(clip, photos, CONFIG, methods="zero-shot", seeds=1, output=tmp_path / "out")
    assert [event.found for event in events if isinstance(event, Finished)] == [False]


@pytest.mark.parametrize("change", [{"query_budget": 41}, {"stage1.population": 7}, {"template": "my {}."}])
def test_cells_made_otherwise_are_left_alone(
    change: dict[str, Any], clip: sz.Clip, photos: Path, tmp_path: Path
) -> None:
    compare(clip, photos, CONFIG, methods="bbt", seeds=1, output=tmp_path / "out")
    before = set((tmp_path / "out" / "cells").iterdir())
    events = compare_steps(clip, photos, CONFIG.with_settings(change), methods="bbt", seeds=1, output=tmp_path / "out")
    assert [event.found for event in events if isinstance(event, Finished)] == [False, False]
    assert len(set((tmp_path / "out" / "cells").iterdir()) - before) == 2


def test_another_preparation_of_images_is_another_cell(clip: sz.Clip, photos: Path, tmp_path: Path) -> None:
    compare(clip, photos, CONFIG, methods="bbt", seeds=1, output=tmp_path / "out")
    preprocessor = replace(clip.config.preprocessor, mean=(0.3, 0.4, 0.5))
    clip.config = replace(clip.config, preprocessor=preprocessor)
    events = compare_steps(clip, photos, CONFIG, methods="bbt", seeds=1, output=tmp_path / "out")
    assert [event.found for event in events if isinstance(event, Finished)] == [False, False]


def test_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = [tmp_path / place for place in ("a/x/images", "b/x/images", "b/y/images", "c/photos", "c/test")]
    named = _labelled(paths)
    assert list(named.values()) == paths
    assert list(named) == ["a-x-images", "b-x-images", "y-images", "photos", "c-test"]
    with pytest.raises(UserError, match=r"another folder would have the name .*a-b"):
        _labelled([tmp_path / "a" / "b", tmp_path / "c" / "b", tmp_path / "a-b"])


def test_other_images_and_damaged_cells_are_computed_anew(clip: sz.Clip, photos: Path, tmp_path: Path) -> None:
    data, output = tmp_path / "data", tmp_path / "out"
    shutil.copytree(photos, data)

    def found() -> list[bool]:
        events = list(compare_steps(clip, data, CONFIG, methods="bbt", seeds=1, output=output))
        return [event.found for event in events if isinstance(event, Finished)]

    assert found() == [False, False]
    assert found() == [True, True]
    next((output / "cells").glob("*bbt*")).write_text('{"figures": {"test"')
    assert found() == [True, False]
    shutil.copy(data / "cat" / "0.png", data / "dog" / "0.png")
    shutil.copy(data / "cat" / "1.png", data / "dog" / "1.png")
    assert found() == [False, False]


def test_a_trial_that_became_the_tuned_one_is_known_already(clip: sz.Clip, photos: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"methods": "bbt", "seeds": 1, "output": tmp_path / "out"}
    trials = compare(clip, photos, CONFIG, variants=["trials"], **options)
    assert [cell.variant for cell in trials.datasets[0].cells] == ["tuned", *(f"trial-{n}" for n in (1, 2, 3, 4))]
    events = list(compare_steps(clip, photos, CONFIG, variants=["tuned", "published"], **options))
    cells = {event.cell.variant: event for event in events if isinstance(event, Finished)}
    assert cells["tuned"].found
    assert cells["tuned"].cell.variant == "tuned"


def test_a_method_that_fails_is_recorded_and_tried_again(
    clip: sz.Clip, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        broken(patch, "bbt", ZeroDivisionError("no such\nluck"))
        found = compare(clip, photos, CONFIG, methods="bbt,zo", seeds=1, output=tmp_path / "out")
        assert [(cell.method, cell.error) for cell in found.failed] == [("bbt", "ZeroDivisionError: no such luck")]
        row = found.datasets[0].rows[1]
        assert (row.method, row.seeds, row.test) == ("bbt", (), None)
        assert row.errors == {0: "ZeroDivisionError: no such luck"}
    content = json.loads(next((tmp_path / "out" / "cells").glob("*bbt*")).read_text())
    assert "Traceback" in content["traceback"]
    assert "raise error" in content["traceback"]
    events = list(compare_steps(clip, photos, CONFIG, methods="bbt,zo", seeds=1, output=tmp_path / "out"))
    assert [event.found for event in events if isinstance(event, Finished)] == [True, False, True]
    end = events[-1]
    assert isinstance(end, Comparison)
    assert end.failed == []


def test_a_budget_too_small_for_one_method_leaves_the_rest_alone(clip: sz.Clip, photos: Path, tmp_path: Path) -> None:
    small = replace(CONFIG, query_budget=4)
    found = compare(clip, photos, small, methods="bbt,zo,ncm", seeds=1, output=tmp_path / "out")
    assert [(cell.method, cell.error) for cell in found.failed] == [
        ("bbt", "query-budget 4: the search needs at least 20; raise it to that")
    ]
    assert [row.method for row in found.datasets[0].rows if row.test is not None] == ["zero-shot", "zo", "ncm"]
    with pytest.raises(UserError, match=r"bbt \(tuned\): query-budget 4: the search needs"):
        compare(clip, photos, small, methods="bbt,sharpzo,ncm", seeds=1, output=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_an_interrupt_is_no_failure(
    clip: sz.Clip, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch, "bbt", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        compare(clip, photos, CONFIG, methods="bbt", seeds=1, output=tmp_path / "out")
    assert [path.name.split("-")[1] for path in (tmp_path / "out" / "cells").iterdir()] == ["zero"]


def test_what_cannot_be_compared_is_refused_before_anything_runs(clip: sz.Clip, photos: Path, tmp_path: Path) -> None:
    for options, words in (
        ({"methods": "bbt,nonsense"}, "method 'nonsense': choose among"),
        ({"methods": ""}, "no method named"),
        ({"seeds": 0}, "seeds 0: at least 1"),
        ({"variants": ["best"]}, "variant 'best'"),
        ({"config": replace(CONFIG, time_budget=60.0)}, "time-budget: methods are compared at equal queries"),
        ({"shift": [tmp_path / "nowhere"]}, "nowhere"),
    ):
        given: dict[str, Any] = {"config": CONFIG, "output": tmp_path / "out", "methods": "bbt", **options}
        with pytest.raises(UserError, match=re.escape(words)):
            compare(clip, photos, **given)
    with pytest.raises(UserError, match="nowhere"):
        compare(clip, [photos, tmp_path / "nowhere"], CONFIG, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# the tables


def cell(method: str, seed: int, test: float | None, **changes: Any) -> Cell:
    values: dict[str, Any] = {
        "val": 0.5, "val_loss": 1.0, "shift": {}, "queries": 100 + seed, "image_passes": 0, "backward_passes": 0,
        "seconds": 2.0 + seed, "peak_memory_mb": 60.0 + seed,
        "curve": {name: [0.0, 100.0] for name in CURVE},
    }  # fmt: skip
    return Cell("d", method, "tuned", seed, Figures(test=test, **{**values, **changes}))


def test_means_spreads_and_gains_are_those_of_numpy() -> None:
    zero, bbt = [0.30, 0.34, 0.29], [0.50, 0.47, 0.62]
    cells = [cell("zero-shot", seed, test) for seed, test in enumerate(zero)]
    cells += [cell("bbt", seed, test, shift={"sketch": test / 2}) for seed, test in enumerate(bbt)]
    row = tables.rows(cells)[1]
    assert row.test is not None
    assert row.gain is not None
    assert astuple(row.test) == pytest.approx((np.mean(bbt), np.std(bbt, ddof=1)))
    gains = np.subtract(bbt, zero)
    assert astuple(row.gain) == pytest.approx((gains.mean(), gains.std(ddof=1)))
    assert row.shift["sketch"].sd == pytest.approx(np.std(bbt, ddof=1) / 2)
    assert row.costs["queries"] == 101
    assert row.costs["seconds"] == 3
    assert row.peak_memory_mb == 62
    only = tables.rows(cells[:1] + cells[3:4])[1].test
    assert only == tables.Spread(0.5, None)


def test_the_mean_over_data_sets_takes_seeds_one_by_one_and_leaves_out_what_failed() -> None:
    first = [cell("zero-shot", s, 0.2) for s in (0, 1)] + [cell("bbt", s, t) for s, t in ((0, 0.4), (1, 0.6))]
    second = [cell("zero-shot", s, 0.4) for s in (0, 1)] + [cell("bbt", s, t) for s, t in ((0, 0.8), (1, 0.5))]
    second.append(Cell("d", "zo", "tuned", 0, None, "broken"))
    mean = tables.mean_rows([[*first, cell("zo", 0, 0.9)], second])
    assert [row.method for row in mean] == ["zero-shot", "bbt"]
    bbt, gain = mean[1].test, mean[1].gain
    assert bbt is not None
    assert gain is not None
    assert astuple(bbt) == pytest.approx((0.575, np.std([0.6, 0.55], ddof=1)))
    assert gain.mean == pytest.approx(0.275)


def test_the_mean_over_data_sets_has_the_shifted_folders_that_all_were_measured_on() -> None:
    first = [cell("zero-shot", s, 0.2, shift={"sketch": 0.1 + s, "night": 0.5}) for s in (0, 1)]
    second = [cell("zero-shot", s, 0.4, shift={"sketch": 0.3 + s}) for s in (0, 1)]
    (row,) = tables.mean_rows([first, second])
    assert set(row.shift) == {"sketch"}
    assert astuple(row.shift["sketch"]) == pytest.approx((0.7, np.std([0.2, 1.2], ddof=1)))


def test_a_shifted_folder_with_images_of_the_data_set_is_named_once(
    clip: sz.Clip, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(photos / "cat", elsewhere / "cat")  # copies are other files
    for output, shift in (("a", [elsewhere]), ("b", [elsewhere, photos])):
        compare(clip, photos, CONFIG, methods="zero-shot", seeds=2, shift=shift, output=tmp_path / output)
    (line,) = [record.message for record in caplog.records if "flatters" in record.message]
    split = draw_split(photos, shots=4, seed=0)
    seen, images = len(split.train.paths) + len(split.val.paths), len(list(photos.rglob("*.png")))
    told = f"what is tuned on {photos.name} (seed 0) was trained or validated on {seen} of these {images} images"
    assert line.startswith(f"{photos}: {told}")


def test_a_mean_over_fewer_seeds_says_so(clip: sz.Clip, photos: Path, tmp_path: Path) -> None:
    """What a method lacks on one data set, the mean lacks, and the table shows it."""
    first = [cell(name, s, 0.5) for name in ("zero-shot", "bbt") for s in range(3)]
    second = [cell("zero-shot", s, 0.5) for s in range(3)] + [cell("bbt", 0, 0.5)]
    second += [Cell("d", "bbt", "tuned", s, None, "broken") for s in (1, 2)]
    results = tuple(DatasetResult(name, photos, 3, {}, tuple(own)) for name, own in (("a", first), ("b", second)))
    *_, mean = comparison_tables.markdown(Comparison(tmp_path, CONFIG, results)).split("## ")
    assert "3 seeds" in mean
    assert "| Zero-shot | 50.0 ± 0.0 |" in mean
    assert "| BBT (CMA-ES) [2 failed] | 50.0 | +0.0 |" in mean


def test_bands_are_means_of_stairs() -> None:
    curves = [
        {"queries": [0.0, 50.0, 100.0], "best_accuracy": [0.2, 0.4, 0.6]},
        {"queries": [0.0, 80.0], "best_accuracy": [0.1, 0.9]},
    ]
    grid, mean, sd = plots.band(curves, "queries", "best_accuracy")
    assert (grid[0], grid[-1]) == (0, 100)
    for x, m, s in zip(grid, mean, sd, strict=True):
        own = [0.6 if x >= 100 else 0.4 if x >= 50 else 0.2, 0.9 if x >= 80 else 0.1]
        assert m == pytest.approx(np.mean(own))
        assert s == pytest.approx(np.std(own, ddof=1))


# the command


def arguments(model: Path, output: Path, *words: str | Path) -> list[str]:
    options = ["--model", model, "--output", output, "--shots", 4, "--query-budget", 60, "--seeds", 2]
    return ["compare", *map(str, [*words, *options])]


def test_the_command_prints_tables_and_writes_its_folder(
    tiny_model: Path, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    other = tmp_path / "others"
    for name in ("cat", "dog", "barn owl"):
        shutil.copytree(photos / name, other / name)
    words: list[str | Path] = ["--methods", "bbt,coop", "--shift", other, "--published"]
    assert main.run(arguments(tiny_model, tmp_path / "out", photos, other, *words)) == 0
    said = capsys.readouterr()
    text = said.out
    assert f"{photos.name}: 3 classes, 12 train, 12 val, 12 test images, 60 queries, 2 seeds" in text
    assert f"mean over {photos.name}, others" in text
    assert text.count("BBT (CMA-ES) ") == 6
    assert text.count("BBT (CMA-ES) (published)") == 3
    assert "CoOp* " in text
    assert text.count("needs backpropagation") == 1
    assert "20 of 20" in said.err
    files = {path.name for path in (tmp_path / "out").iterdir()}
    drawn = {f"{d}-{a}.{e}" for d in (photos.name, "others") for a in ("queries", "seconds") for e in ("svg", "png")}
    assert files == {"cells", "comparison.json", "comparison.md", *drawn}
    assert "| CoOp* |" in (tmp_path / "out" / "comparison.md").read_text()
    svg = (tmp_path / "out" / "others-queries.svg").read_text()
    assert svg.startswith("<svg")
    assert {"BBT (CMA-ES)", "CoOp"} <= set(re.findall(r">([^<>]+)</text>", svg))
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", svg)

    record = json.loads((tmp_path / "out" / "comparison.json").read_text())
    row = record["datasets"][0]["rows"][1]
    share = [
        c["figures"]["test"] for c in record["datasets"][0]["cells"] if (c["method"], c["variant"]) == ("bbt", "tuned")
    ]
    assert f"{100 * np.mean(share):.1f} ± {100 * np.std(share, ddof=1):.1f}" in text
    assert row["test"]["mean"] == pytest.approx(np.mean(share))


def test_a_failure_is_told_in_one_line_and_by_the_exit_code(
    tiny_model: Path, photos: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch, "bbt", UserError("no luck"))
    words = arguments(tiny_model, tmp_path / "out", photos, "--methods", "bbt", "--json")
    assert main.run(words) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["datasets"][0]["rows"][1]["errors"] == {"0": "no luck", "1": "no luck"}
    assert said.err.strip().splitlines()[-1] == (
        f"error: 2 of the cells failed, the first: bbt (tuned) on {photos.name}, seed 0: no luck; "
        "the same command tries them again"
    )


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--methods", "sharpzero"], "method 'sharpzero': choose among zero-shot, bbt"),
        (["--query-budget", "0"], "query-budget 0: must be at least 1"),
        (["--seeds", "0"], "seeds 0: at least 1"),
    ],
)
def test_a_users_mistake_is_one_line(
    words: list[str], reason: str, tiny_model: Path, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert main.run([*arguments(tiny_model, tmp_path / "out", photos), *words]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_row_of_a_method_that_only_failed() -> None:
    row = tables.rows([Cell("d", "bbt", "tuned", 0, None, "no luck")])[0]
    assert comparison_tables._cells(row, ["sketch"], 1) == ["BBT (CMA-ES) [1 failed]", *["-"] * 8]
