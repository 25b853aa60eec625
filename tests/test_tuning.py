"""Tuning end to end on a tiny model: the run it leaves, and what it refuses."""

from __future__ import annotations

import json
import os
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_settings import SMALL

import sharpzo_mlx as sz
from sharpzo_mlx.cli import main
from sharpzo_mlx.report import page
from sharpzo_mlx.runs.run import Run, locked
from sharpzo_mlx.runs.settings_file import as_toml
from sharpzo_mlx.runs.step_log import read_steps
from sharpzo_mlx.tuning.encoding import Encoding
from sharpzo_mlx.tuning.pipeline import Done, Drawn, Plan, tune, tune_steps
from sharpzo_mlx.tuning.search import TuneStep


@pytest.fixture
def clip(tiny_model: Path) -> sz.Clip:
    return sz.load(tiny_model)


def test_events_come_in_order_and_the_run_holds_everything(clip: sz.Clip, photos: Path, tmp_path: Path) -> None:
    events = list(tune_steps(clip, photos, sz.TuneConfig().with_settings(SMALL), output=tmp_path / "run"))
    kinds = [type(event) for event in events]
    assert kinds[:2] == [Drawn, Encoding]
    assert kinds[-1] is Done
    first_step, last_step = kinds.index(TuneStep), len(kinds) - 1 - kinds[::-1].index(TuneStep)
    assert [k for k in kinds[first_step : last_step + 1] if k is not TuneStep] == []
    assert kinds.count(Plan) == 1
    assert kinds.index(Plan) < first_step
    # the test images are first touched when the search is over
    assert {e.split for e in events[:first_step] if isinstance(e, Encoding)} == {"train", "val"}
    assert {e.split for e in events[last_step:] if isinstance(e, Encoding)} == {"test"}

    run = Run.load(tmp_path / "run")
    assert run.finished
    assert isinstance(events[-1], Done)
    assert run.results == events[-1].run.results
    steps = read_steps(run.folder)
    assert [s.step for s in steps] == [*range(1, 6), *range(1, 31)]
    assert steps[-1].queries == run.results.queries == 5 * 6 + 30 * 5
    files = {path.name for path in run.folder.iterdir()}
    assert files == {"config.toml", "labelled.safetensors", "prompt.safetensors", "run.json", "steps.jsonl"}
    counts = {name: len(rows) for name, rows in run.record.images.by_split().items()}
    assert counts == {"train": 12, "val": 12, "test": 12}


def test_results_are_those_of_the_saved_classifier(clip: sz.Clip, photos: Path, tmp_path: Path) -> None:
    run = tune(clip, photos, sz.TuneConfig().with_settings(SMALL), output=tmp_path / "run")
    for split in ("val", "test"):
        rows = run.record.images.by_split()[split]
        features = np.array(clip.encode_images([photos / path for path, _ in rows]))
        labels = np.array([label for _, label in rows])
        tuned = np.mean((features @ np.array(run.prompt.class_features).T).argmax(axis=1) == labels)
        zero = np.mean((features @ np.array(run.prompt.zero_shot_features).T).argmax(axis=1) == labels)
        assert getattr(run.results, split) == pytest.approx(tuned)
        assert getattr(run.results, "zero_shot" if split == "test" else "zero_shot_val") == pytest.approx(zero)
    texts = clip.encode_texts([f"a photo of a {name}." for name in run.prompt.class_names])
    np.testing.assert_allclose(run.prompt.zero_shot_features, texts, atol=1e-5)


def test_tuning_lowers_the_training_loss(clip: sz.Clip, photos: Path, tmp_path: Path) -> None:
    run = tune(clip, photos, sz.TuneConfig().with_settings({**SMALL, "generations": 40}), output=tmp_path / "run")
    losses = [step.loss for step in read_steps(run.folder) if step.stage == 1]
    assert losses[-1] < losses[0] - 0.05
    assert run.results.val >= run.results.zero_shot_val


def test_without_a_readable_test_image_there_is_no_test_split(
    clip: sz.Clip, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for part, first in (("train", 0), ("val", 4), ("test", 8)):
        for image in sorted(photos.glob("*/*")):
            if first <= int(image.stem) < first + 4:
                copied = tmp_path / "data" / part / image.parent.name / image.name
                copied.parent.mkdir(parents=True, exist_ok=True)
                copied.write_bytes(b"no" if part == "test" else image.read_bytes())
    run = tune(clip, tmp_path / "data", sz.TuneConfig().with_settings(SMALL), output=tmp_path / "run")
    assert "not one of the 12 test images can be read" in caplog.text
    assert run.finished
    assert run.results.test is None
    assert run.results.zero_shot == run.results.zero_shot_val
    assert list(Run.load(tmp_path / "run").record.images.by_split()) == ["train", "val"]
    assert page.write_report(run, clip=clip, landscape=False).is_file()
    assert "left out of the page" not in caplog.text


def test_one_process_at_a_time(clip: sz.Clip, photos: Path, tmp_path: Path) -> None:
    with locked(tmp_path / "run"), pytest.raises(sz.UserError, match="another process"), locked(tmp_path / "run"):
        pass


@pytest.mark.parametrize(
    ("dataset", "changes", "message"),
    [
        ("absent", {}, "absent"),
        ("photos", {"template": "{} in the wild"}, "words before"),
        ("photos", {"memory_budget": 1000}, "memory-budget"),
        ("photos", {"query_budget": 1}, "query-budget"),
    ],
)
def test_nothing_is_left_where_tuning_never_began(
    clip: sz.Clip, photos: Path, tmp_path: Path, *, dataset: str, changes: dict[str, Any], message: str
) -> None:
    folder = photos if dataset == "photos" else tmp_path / dataset
    with pytest.raises(sz.UserError, match=message):
        tune(clip, folder, sz.TuneConfig().with_settings({**SMALL, **changes}), output=tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()


def test_what_a_kill_or_the_finder_left_is_no_obstacle(clip: sz.Clip, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in (".DS_Store", ".run-abc.json", ".checkpoint-xyz.safetensors"):
        (tmp_path / "run" / name).write_text("left")
    run = tune(clip, photos, sz.TuneConfig().with_settings(SMALL), output=tmp_path / "run")
    assert sorted(p.name for p in run.folder.glob(".*")) == [".DS_Store"]


def test_an_output_that_cannot_be_made_is_one_line(clip: sz.Clip, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(sz.UserError, match="choose another --output"):
        tune(clip, photos, sz.TuneConfig().with_settings(SMALL), output=tmp_path / "file" / "run")


def test_coarse_products_switch_to_forward_mode(
    clip: sz.Clip, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sharpzo_mlx.runtime.precision.products_are_coarse", lambda: True)
    config = sz.TuneConfig().with_settings({**SMALL, "sharpness.rho": 0.1, "sharpness.estimator": "cge"})
    run = tune(clip, photos, config, output=tmp_path / "run")
    assert "sharpness.estimator forward" in caplog.text
    # CGE's d coordinates stay d coordinates: 5 generations of 6 + 2 x 16, 30 steps of 2 + 1 + 3
    assert run.results.queries == 5 * (6 + 32) + 30 * 6


def test_run_json_is_plain_and_complete(clip: sz.Clip, photos: Path, tmp_path: Path) -> None:
    run = tune(clip, photos, sz.TuneConfig().with_settings(SMALL), output=tmp_path / "run")
    content = json.loads((run.folder / "run.json").read_text())
    assert content["config"] == sz.TuneConfig(template="a photo of a {}.").with_settings(SMALL).to_json()
    assert content["model"]["fingerprint"] == clip.fingerprint
    assert content["versions"]["mlx"] == metadata.version("mlx")
    assert all(not os.path.isabs(path) for rows in content["images"].values() for path, _ in rows)


@pytest.mark.parametrize("damage", ["{", "[]", '{"format": 99}', '{"format": 2, "config": {"no": 1}}'])
def test_a_damaged_run_is_one_line(tmp_path: Path, damage: str) -> None:
    with pytest.raises(sz.UserError, match="no run here"):
        Run.load(tmp_path)
    (tmp_path / "run.json").write_text(damage)
    with pytest.raises(sz.UserError) as caught:
        Run.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_python_and_the_command_line_leave_the_same_files(tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    config = sz.TuneConfig().with_settings(SMALL)
    own = sz.tune(sz.load(tiny_model), photos, config, output=tmp_path / "python")
    (tmp_path / "settings.toml").write_text(as_toml(config))
    words = ["tune", str(photos), "--model", str(tiny_model), "--config", str(tmp_path / "settings.toml")]
    assert main.run([*words, "--output", str(tmp_path / "command")]) == 0
    other = tmp_path / "command"
    assert {path.name for path in own.folder.iterdir()} == {path.name for path in other.iterdir()}
    for name in ("config.toml", "prompt.safetensors"):
        assert (own.folder / name).read_bytes() == (other / name).read_bytes()
    same_page = [(folder / "report.html").read_text().count("<svg") for folder in (own.folder, other)]
    assert same_page[0] == same_page[1] > 0
    alone = sz.tune(sz.load(tiny_model), photos, config, output=tmp_path / "alone", report=False)
    assert not (alone.folder / "report.html").exists()
