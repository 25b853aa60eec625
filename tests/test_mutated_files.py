"""Every file that a run or a data set has, damaged in many ways: a result, or one line that the user can act on."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mutations import mutate_bytes, mutate_json, mutate_safetensors, mutations
from split_files import SPLIT_NAMES, make_split
from tiny_settings import SMALL

import sharpzo_mlx as sz
from sharpzo_mlx.comparison.results import Measurements, ResultKey, ResultSettings, ResultStore
from sharpzo_mlx.datasets.coop import read_split_file
from sharpzo_mlx.datasets.folder import read_folder
from sharpzo_mlx.datasets.mapping import apply_mapping
from sharpzo_mlx.datasets.names import read_names
from sharpzo_mlx.datasets.templates import read_templates
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.evaluation.reports import EVALUATIONS, keep_evaluations, read_entries
from sharpzo_mlx.runs.prompt_file import read_prompt
from sharpzo_mlx.runs.run import Run
from sharpzo_mlx.runs.settings_file import read_settings
from sharpzo_mlx.runs.step_log import read_steps
from sharpzo_mlx.tuning import checkpointing
from sharpzo_mlx.tuning.pipeline import tune, tune_steps
from sharpzo_mlx.tuning.search import TuneStep

SEED, COUNT = 0, 50  # `test_fuzz.py` runs whole commands on many more


def survive(path: Path, damaged: list[bytes], read: Callable[[], object]) -> int:
    """Read each damaged form of a file; return how many were refused. Any exception but a UserError fails the test."""
    refusals = 0
    for number, content in enumerate(damaged):
        path.write_bytes(content)
        try:
            read()
        except UserError as error:
            line = str(error)
            assert path.name in line, f"number {number}: {line}"
            assert len(line.splitlines()) == 1, f"number {number}: {line}"
            refusals += 1
        except Exception as error:
            raise AssertionError(f"number {number}: {content[:2000]!r}") from error
    return refusals


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run for one test."""
    return shutil.copytree(finished_run, tmp_path / "run")


def test_run_json(run: Path) -> None:
    def use() -> None:
        loaded = Run.load(run)
        loaded.save()
        assert sum(len(rows) for rows in loaded.record.images.by_split().values()) >= 0
        assert -1e-5 < loaded.results.val < 1.00001

    path = run / "run.json"
    damaged = mutations(path, mutate_json, seed=SEED, count=4 * COUNT)
    whole = path.read_bytes()

    def use_and_restore() -> None:
        try:
            use()
        except UserError as error:
            if "stopped before there was anything to show" not in str(error):
                raise
        finally:
            path.write_bytes(whole)

    assert survive(path, damaged, use_and_restore) > COUNT


def test_a_prompt(run: Path) -> None:
    path = run / "prompt.safetensors"
    embeddings = mx.array(np.eye(3, Run.load(run).prompt.class_features.shape[1], dtype=np.float32))

    def use() -> None:
        prompt = read_prompt(path)
        logits = np.array(prompt.logits(embeddings[:, : prompt.class_features.shape[1]]))
        assert logits.shape[1] == len(prompt.class_names)

    assert survive(path, mutations(path, mutate_safetensors, seed=SEED, count=4 * COUNT), use) > COUNT


def test_steps(run: Path) -> None:
    path = run / "steps.jsonl"
    first, rest = path.read_bytes().split(b"\n", 1)
    damaged = mutations(path, mutate_bytes, seed=SEED, count=COUNT)
    damaged += [mutate_json(first, random.Random(number)) + b"\n" + rest for number in range(2 * COUNT)]
    assert survive(path, damaged, lambda: [step.val_accuracy for step in read_steps(run)]) > COUNT


def test_evaluations(run: Path, photos: Path) -> None:
    keep_evaluations(Run.load(run), sz.evaluate(Run.load(run), photos))
    path, loaded = run / EVALUATIONS, Run.load(run)
    assert len(read_entries(loaded)) == 1
    damaged = mutations(path, mutate_json, seed=SEED, count=2 * COUNT)
    assert survive(path, damaged, lambda: [entry.images for entry in read_entries(loaded)]) == 0


def test_a_result_of_a_comparison(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    settings = ResultSettings({}, True, {}, "m", "d", {}, "s")
    key = ResultKey("photos", "sharpzo", "tuned", 0, settings)
    curve = {"queries": [1, 2], "accuracy": [0.5, 0.6], "loss": [1.0, None]}
    content = {"test": 0.5, "val": 0.5, "val_loss": 1.0, "shift": {"a": 0.5}, "queries": 3, "image_passes": 0,
               "backward_passes": 0, "seconds": 1.0, "peak_memory_mb": 1.0, "curve": {}}  # fmt: skip
    store.save(key, key.succeed(Measurements.from_json(content)), dataset_path=tmp_path)
    path = store.path(key)
    kept = json.loads(path.read_text())
    assert store.find(key) is not None
    kept["measurements"]["curve"] |= curve
    path.write_text(json.dumps(kept))
    assert store.find(key) is None  # its columns are of several lengths
    damaged = mutations(path, mutate_json, seed=SEED, count=2 * COUNT)
    assert survive(path, damaged, lambda: store.find(key)) == 0


def test_settings(run: Path) -> None:
    path = run / "config.toml"

    def use() -> None:
        settings = read_settings(path)
        try:
            sz.TuneConfig().with_settings(settings)
        except UserError as error:
            raise UserError(f"config.toml {' '.join(str(error).split())}") from error  # names the setting

    assert survive(path, mutations(path, mutate_bytes, seed=SEED, count=2 * COUNT), use) > 0


def test_a_split_file(photos: Path, tmp_path: Path) -> None:
    path = make_split(photos, tmp_path / "data")
    assert read_split_file(path)["train"].class_names == SPLIT_NAMES
    assert (
        survive(path, mutations(path, mutate_json, seed=SEED, count=2 * COUNT), lambda: read_split_file(path)) > COUNT
    )


def test_lists_of_text(photos: Path, tmp_path: Path) -> None:
    images = read_folder(photos)
    mapping, names, templates = (tmp_path / name for name in ("map.json", "classnames.txt", "templates.txt"))
    mapping.write_text(json.dumps({"barn owl": "barn owl", "cat": ["cat"], "dog": None}))
    names.write_text("cat a cat\ndog a dog\n")
    templates.write_text("a photo of a {}.\na {}\n")
    for path, mutate, read in (
        (mapping, mutate_json, lambda: apply_mapping(images, mapping, images.class_names, images.folders)),
        (mapping, mutate_bytes, lambda: apply_mapping(images, mapping, images.class_names, images.folders)),
        (names, mutate_bytes, lambda: read_names(names, images.folders)),
        (templates, mutate_bytes, lambda: read_templates(str(templates))),
    ):
        whole = path.read_bytes()
        assert survive(path, mutations(path, mutate, seed=SEED, count=COUNT), read) > 0
        path.write_bytes(whole)


def test_a_checkpoint(tiny_model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged one is told by its digest; one that was forged with a digest of its own must still fit."""
    monkeypatch.setattr(checkpointing, "CHECKPOINT_SECONDS", 0)
    clip, config = sz.load(tiny_model), sz.TuneConfig().with_settings(SMALL)
    events = tune_steps(clip, photos, config, output=tmp_path / "part")
    next(event for event in events if isinstance(event, TuneStep) and event.stage == 2 and event.step == 20)
    events.close()  # type: ignore[attr-defined]
    (tmp_path / "part" / "checkpoint-before.safetensors").unlink()
    path = tmp_path / "part" / "checkpoint.safetensors"
    damaged = mutations(path, mutate_safetensors, seed=SEED, count=40)
    damaged = [
        content.replace(b'"digest"', b'"nodige"') if place % 2 else content for place, content in enumerate(damaged)
    ]

    def use() -> None:
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        tune(clip, photos, output=shutil.copytree(tmp_path / "part", tmp_path / "copy"), resume=True)

    assert survive(path, damaged, use) > 20
