"""The results of a comparison on disk: which are taken as they are, and which are made anew."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from comparison_runs import CONFIG

import sharpzo_mlx as sz
from sharpzo_mlx.comparison import dataset_runner
from sharpzo_mlx.comparison.dataset_runner import Finished
from sharpzo_mlx.comparison.results import Curve, Measurements, ResultKey, ResultSettings, ResultStore
from sharpzo_mlx.comparison.runner import compare, compare_steps

CLOCK = ("seconds", "peak_memory_mb")


@pytest.fixture
def clip(tiny_model: Path) -> sz.Clip:
    return sz.load(tiny_model)


def timeless(value: Any) -> Any:
    """A record without what the clock and the memory said."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in CLOCK}
    return [timeless(item) for item in value] if isinstance(value, (list, tuple)) else value


def test_a_comparison_that_was_killed_goes_on_to_the_same_record(clip: sz.Clip, photos: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"methods": "bbt,zo", "seeds": 2}
    whole = compare(clip, photos, CONFIG, output=tmp_path / "whole", **options)
    events = compare_steps(clip, photos, CONFIG, output=tmp_path / "cut", **options)
    for event in events:
        if isinstance(event, Finished) and event.done == 4:
            break
    del events  # between two results, as a kill would
    assert not (tmp_path / "cut" / "comparison.json").exists()
    kept = {path: path.read_bytes() for path in (tmp_path / "cut" / "results").iterdir()}
    assert len(kept) == 4
    rest = list(compare_steps(clip, photos, CONFIG, output=tmp_path / "cut", **options))
    assert [event.found for event in rest if isinstance(event, Finished)] == [True] * 4 + [False] * 2
    assert {path: path.read_bytes() for path in kept} == kept
    one, other = (json.loads((tmp_path / name / "comparison.json").read_text()) for name in ("whole", "cut"))
    assert timeless(one) == timeless(other)
    assert timeless(one) == timeless(json.loads(json.dumps(whole.to_json())))


def test_results_of_other_sources_are_left_alone(
    clip: sz.Clip, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(clip, photos, CONFIG, methods="zero-shot", seeds=1, output=tmp_path / "out")
    monkeypatch.setattr(dataset_runner, "source_digest", lambda: "others")
    events = compare_steps(clip, photos, CONFIG, methods="zero-shot", seeds=1, output=tmp_path / "out")
    assert [event.found for event in events if isinstance(event, Finished)] == [False]


@pytest.mark.parametrize("change", [{"query_budget": 41}, {"stage1.population": 7}, {"template": "my {}."}])
def test_results_made_otherwise_are_left_alone(
    change: dict[str, Any], clip: sz.Clip, photos: Path, tmp_path: Path
) -> None:
    compare(clip, photos, CONFIG, methods="bbt", seeds=1, output=tmp_path / "out")
    before = set((tmp_path / "out" / "results").iterdir())
    events = compare_steps(clip, photos, CONFIG.with_settings(change), methods="bbt", seeds=1, output=tmp_path / "out")
    assert [event.found for event in events if isinstance(event, Finished)] == [False, False]
    assert len(set((tmp_path / "out" / "results").iterdir()) - before) == 2


def test_another_preparation_of_images_is_another_result(clip: sz.Clip, photos: Path, tmp_path: Path) -> None:
    compare(clip, photos, CONFIG, methods="bbt", seeds=1, output=tmp_path / "out")
    preprocessor = replace(clip.config.preprocessor, mean=(0.3, 0.4, 0.5))
    clip.config = replace(clip.config, preprocessor=preprocessor)
    events = compare_steps(clip, photos, CONFIG, methods="bbt", seeds=1, output=tmp_path / "out")
    assert [event.found for event in events if isinstance(event, Finished)] == [False, False]


def test_other_images_and_damaged_results_are_computed_anew(clip: sz.Clip, photos: Path, tmp_path: Path) -> None:
    data, output = tmp_path / "data", tmp_path / "out"
    shutil.copytree(photos, data)

    def found() -> list[bool]:
        events = list(compare_steps(clip, data, CONFIG, methods="bbt", seeds=1, output=output))
        return [event.found for event in events if isinstance(event, Finished)]

    assert found() == [False, False]
    assert found() == [True, True]
    next((output / "results").glob("*bbt*")).write_text('{"measurements": {"test"')
    assert found() == [True, False]
    shutil.copy(data / "cat" / "0.png", data / "dog" / "0.png")
    shutil.copy(data / "cat" / "1.png", data / "dog" / "1.png")
    assert found() == [False, False]


def test_a_trial_that_became_the_tuned_one_is_known_already(clip: sz.Clip, photos: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"methods": "bbt", "seeds": 1, "output": tmp_path / "out"}
    trials = compare(clip, photos, CONFIG, variants=["trials"], **options)
    assert [cell.variant for cell in trials.datasets[0].results] == ["tuned", *(f"trial-{n}" for n in (1, 2, 3, 4))]
    events = list(compare_steps(clip, photos, CONFIG, variants=["tuned", "published"], **options))
    cells = {event.result.variant: event for event in events if isinstance(event, Finished)}
    assert cells["tuned"].found
    assert cells["tuned"].result.variant == "tuned"


def test_a_result_comes_back_from_its_file(tmp_path: Path) -> None:
    settings = ResultSettings(
        options={"steps": 3}, own_code=False, config={}, model="m", data="d", versions={}, sources="s"
    )
    key, store = ResultKey("photos/of pets", "bbt", "tuned", 1, settings), ResultStore(tmp_path)
    curve = Curve((0, 7), (0, 0), (0.5, 1.0), (0.25, 0.5), (None, 1.5), (0.25, 0.5), (2.0, 1.5), (0.25, None))
    made = Measurements(0.25, 0.5, None, {"sketch": 0.125}, 7, 14, 0, 1.0, 60.0, curve)
    assert store.find(key) is None
    store.save(key, key.succeed(made), dataset_path=tmp_path)
    assert store.path(key).name.startswith("photos_of_pets-bbt-1-")
    assert store.find(key) == key.succeed(made)
    renamed = replace(key, variant="trial-2")  # the same options under another name
    assert store.find(renamed) == renamed.succeed(made)
    assert store.find(replace(key, seed=2)) is None
    store.save(key, key.fail("no luck"), dataset_path=tmp_path, traceback="here")
    assert store.find(key) is None
