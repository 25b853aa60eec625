"""What run.json holds: records come back as they were written, and damage is named by its field."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.runs.record import DrawnImages, HeadResult, ModelRecord, RunRecord, RunResults
from sharpzo_mlx.runs.run import RECORD, Run

RUN_RECORD = RunRecord(
    status="finished", model=ModelRecord("/models/m", "abc"), dataset="/photos", shots=16,
    class_names=("cat", "dog"), class_folders=("n01", "n02"),
    images=DrawnImages((("n01/1.jpg", 0),), (("n02/2.jpg", 1),), (("n01/3.jpg", 0),)),
    versions={"mlx": "0.32"}, content="def", zero_shot_val=0.5,
)  # fmt: skip
RESULTS = RunResults(
    zero_shot=0.5, val=0.75, test=0.625, zero_shot_val=0.25, queries=5000, val_queries=30, seconds=1.5,
    peak_memory_mb=60.0, process_memory_mb=200.0,
)  # fmt: skip
HEAD = HeadResult("gda", text=0.25, image=0.5, named=0.125, words_kept=False)
WITH_HEAD = replace(RESULTS, test_text=0.5, head=HEAD)
TUNED_BESIDE = replace(WITH_HEAD, head=replace(HEAD, words_kept=True, words_gain=0.25, words_error=0.125))


@pytest.mark.parametrize("record", [RUN_RECORD, replace(RUN_RECORD, content=None, images=DrawnImages((), ()))])
def test_a_record_comes_back_from_json(record: RunRecord) -> None:
    assert RunRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


@pytest.mark.parametrize("results", [RESULTS, WITH_HEAD, TUNED_BESIDE, replace(RESULTS, test=None)])
def test_results_come_back_from_json(results: RunResults) -> None:
    assert RunResults.from_json(json.loads(json.dumps(results.to_json()))) == results


def test_only_what_a_run_has_is_written() -> None:
    """Without a head nothing is said of one; a test accuracy that is missing is null."""
    content = replace(RESULTS, test=None).to_json()
    assert content["test"] is None
    assert {"test_text", "head"} & content.keys() == set()
    own = {"kind": "gda", "text": 0.25, "image": 0.5, "named": 0.125, "words_kept": False}
    assert WITH_HEAD.to_json()["head"] == own  # no search, so nothing of a gain
    assert (RESULTS.chosen_on, WITH_HEAD.chosen_on) == ("validation", "left-out images")
    assert list(RUN_RECORD.images.by_split()) == ["train", "val", "test"]
    assert list(replace(RUN_RECORD.images, test=None).by_split()) == ["train", "val"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": "lost"}, "status is 'lost', which is none of its values"),
        ({"model": {"folder": "m"}}, "model.fingerprint is missing"),
        ({"model": "m"}, "model is not an object"),
        ({"shots": "16"}, "shots is not a whole number"),
        ({"shots": True}, "shots is not a whole number"),
        ({"class_names": "cat"}, "class_names is not a list"),
        ({"class_names": ["cat", 5]}, "class_names[1] is not a text"),
        ({"images": {"train": [], "val": [["a.jpg"]]}}, "images.val[0] has 1 entries, not 2"),
        ({"images": {"train": [], "val": [["a.jpg", "0"]]}}, "images.val[0][1] is not a whole number"),
        ({"versions": {"mlx": 3}}, "versions[...] is not a text"),
        ({"zero_shot_val": "high"}, "zero_shot_val is not a number"),
        ({"zero_shot_val": 1.5}, "zero_shot_val is not at most 1.000001"),
        ({"zero_shot_val": -0.5}, "zero_shot_val is not at least -1e-06"),
        ({"shots": -1}, "shots is not at least 0"),
        ({"shots": 10**19}, "shots is not at most 1000000000000000"),
        ({"class_folders": ["n01"]}, "class_folders has 1 entries, class_names 2"),
        ({"dataset": "a\0b"}, "dataset has characters that no path or name has"),
        ({"class_names": ["cat", "x" * 20_000]}, "class_names[1] is longer than 10000 characters"),
        ({"class_names": ["cat", "\ud800"]}, "class_names[1] has characters that no path or name has"),
        ({"images": {"train": [["a", 2]], "val": []}}, "images.train[0] has label 2, of 2 classes"),
        ({"images": {"train": [["a", -1]], "val": []}}, "images.train[0][1] is not at least 0"),
        (
            {"images": {"train": [], "val": [], "test": [["a\0", 0]]}},
            "images.test[0][0] has characters that no path or name has",
        ),
    ],
)
def test_damage_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"\S") as caught:
        RunRecord.from_json({**RUN_RECORD.to_json(), **change})
    assert str(caught.value) == message


def test_unknown_entries_are_ignored_and_a_whole_number_is_a_number() -> None:
    content = {**RESULTS.to_json(), "seconds": 3, "mood": "good"}
    assert RunResults.from_json(content) == replace(RESULTS, seconds=3.0)


def saved(folder: Path, results: RunResults | None = RESULTS, **changes: Any) -> Run:
    folder.mkdir()
    run = Run(folder, TuneConfig(shots=3), replace(RUN_RECORD, **changes), results)
    run.save()
    return run


def test_a_run_comes_back_from_its_folder(tmp_path: Path) -> None:
    run = saved(tmp_path / "r", WITH_HEAD)
    assert Run.load(tmp_path / "r") == run
    assert Run.load(tmp_path / "r").results.test == 0.625


def test_a_run_that_was_stopped_early_has_no_results(tmp_path: Path) -> None:
    saved(tmp_path / "r", None, status="interrupted")
    run = Run.load(tmp_path / "r")
    assert run.current_results is None
    with pytest.raises(UserError, match="stopped before there was anything to show; continue it with `tune --resume`"):
        _ = run.results


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 1}, "written by another version of sharpzo-mlx; tune again"),
        ({"results": None}, "damaged (results is not an object); tune again"),
        ({"results": {"val": 1}}, "damaged (results.zero_shot is missing); tune again"),
        ({"dataset": None}, "damaged (dataset is not a text); tune again"),
    ],
)
def test_a_run_that_cannot_be_read_is_one_line(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    saved(tmp_path / "r")
    path = tmp_path / "r" / RECORD
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError) as caught:
        Run.load(tmp_path / "r")
    assert str(caught.value) == f"{path}: {message}"
