"""The study's script: its draws, its bookkeeping of cells, and its paired table, against plain computations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def study(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("study")


@pytest.fixture
def plan_file(tmp_path: Path, tiny_model: Path) -> Path:
    random = np.random.default_rng(0)
    for name in ("ant", "bee", "cat", "dog", "elk"):
        for split, count in (("train", 18), ("test", 5)):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f"{index}.png")
    plan = {
        "sets": {"noise": {"model": str(tiny_model), "folder": str(tmp_path / "images"), "classes": 3}},
        "seeds": [0, 1],
        "budgets": [60],
        "configurations": {
            "reference": {"space.dimension": 8, "stage1.population": 4, "pruning.directions": 2},
            "dense": {"pruning.keep": 1.0},
            "the same": {"pruning.keep": 0.5},
            "again": {"pruning.keep": 1.0},
        },
    }
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    return path


def test_draws_are_apart_and_name_the_images_classes(study: ModuleType, plan_file: Path) -> None:
    plan = study.Plan.read(plan_file)
    source = study.Source.read(**plan.sources["noise"])
    seen = set()
    for seed in range(6):
        parts = study.draw(source, "noise", seed)
        assert [len(part.paths) for part in parts] == [48, 12, 9]
        assert len({path for part in parts for path in part.paths}) == 69
        for part in parts:
            assert [path.parent.name for path in part.paths] == [part.folders[label] for label in part.labels]
            images = study.pool(source.model, source.folder)
            np.testing.assert_array_equal(part.embeddings[0], images.embeddings[images.paths.index(part.paths[0])])
        seen.add(parts[0].folders)
        assert study.draw(source, "noise", seed)[0].paths == parts[0].paths
    assert len(seen) > 1, "another seed draws other classes"


def test_cells_that_are_there_are_not_run_again(
    study: ModuleType, plan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Any] = []

    def measured(cell: Any) -> dict[str, Any]:
        ran.append((cell.configuration, cell.seed))
        if len(ran) == 4:
            raise KeyboardInterrupt
        return {}

    monkeypatch.setattr(study, "measure", measured)
    plan, output = study.Plan.read(plan_file), tmp_path / "cells.jsonl"
    with pytest.raises(KeyboardInterrupt):
        study.run(plan, output, only=None, part=(1, 1))
    assert ran == [("reference", 0), ("reference", 1), ("dense", 0), ("dense", 1)]
    study.run(plan, output, only=None, part=(1, 1))
    # "again" is "dense" under another name
    assert ran[4:] == [("dense", 1), ("the same", 0), ("the same", 1)]
    halves = [tmp_path / "1.jsonl", tmp_path / "2.jsonl"]
    for number, half in enumerate(halves):
        study.run(plan, half, only=["reference", "dense"], part=(number + 1, 2))
    assert [len(half.read_text().splitlines()) for half in halves] == [2, 2]
    assert sorted(ran[7:]) == [("dense", 0), ("dense", 1), ("reference", 0), ("reference", 1)]


def test_the_table_compares_draw_by_draw(study: ModuleType, plan_file: Path, tmp_path: Path) -> None:
    plan, output = study.Plan.read(plan_file), tmp_path / "cells.jsonl"
    accuracies = {("reference", 0): 0.40, ("reference", 1): 0.60, ("dense", 0): 0.43, ("dense", 1): 0.67}
    with output.open("w") as file:
        for cell in plan.cells(["reference", "dense"]):
            test = accuracies[cell.configuration, cell.seed]
            record = {"zero_shot": 0.3, "test": test, "last": test, "test_loss": 1.0, "cpu_seconds": 2.0}
            file.write(json.dumps({**cell.__dict__, **record}) + "\n")
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:] for line in study.table(plan, output)}
    assert rows["dense"][:4] == ["2", "25.0", "+5.0 ± 2.0", "25.0"]  # differences of 3 and 7 points
    assert rows["reference"][:3] == ["2", "20.0", "+0.0 ± 0.0"]
    assert rows["again"] == rows["dense"]
    assert "the same" not in rows, "nothing was run"


def test_a_cell_is_a_search_within_its_budget(study: ModuleType, plan_file: Path, tmp_path: Path) -> None:
    plan, output = study.Plan.read(plan_file), tmp_path / "cells.jsonl"
    study.run(plan, output, only=["dense"], part=(1, 2))
    (record,) = [json.loads(line) for line in output.read_text().splitlines()]
    assert 40 < record["queries"] <= 60
    assert record["test_images"] == 9
    assert record["options"] == {
        "space.dimension": 8,
        "stage1.population": 4,
        "pruning.directions": 2,
        "pruning.keep": 1.0,
    }
    assert all(0 <= record[key] <= 1 for key in ("zero_shot", "test", "last", "val"))


def test_shifted_images_are_all_those_of_the_drawn_classes(
    study: ModuleType, plan_file: Path, tmp_path: Path, tiny_model: Path
) -> None:
    """The further folder here is the training half, its classes in the same order: every image counts once."""
    given = json.loads(plan_file.read_text())
    given["sets"]["noise"]["shift"] = [str(tmp_path / "images" / "train"), str(tmp_path / "images" / "test")]
    plan_file.write_text(json.dumps(given))
    plan, output = study.Plan.read(plan_file), tmp_path / "cells.jsonl"
    source = study.Source.read(**plan.sources["noise"])
    drawn = study.draw(source, "noise", 1)[2].folders
    parts = list(study.shifted(source, drawn))
    assert [len(part.paths) for part in parts] == [3 * 18, 3 * 5]
    for part in parts:
        assert [path.parent.name for path in part.paths] == [drawn[label] for label in part.labels]
    study.run(plan, output, only=["reference"], part=(1, 2))
    (record,) = [json.loads(line) for line in output.read_text().splitlines()]
    assert 0 <= record["test_shift"] <= 1
    assert record["zero_shot_shift"] != record["zero_shot"]
    header, _, row = list(study.table(plan, output))[1:4]
    assert header.endswith("| gain under shift | against the reference |")
    gain = 100 * (record["test_shift"] - record["zero_shot_shift"])
    assert row.endswith(f"| {gain:.1f} | +0.0 ± 0.0 |")
