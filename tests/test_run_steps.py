"""The log of a run's steps: what is appended is read back, and what is damaged is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.runs.step_log import STEPS, StepLog, StepRecord, read_steps

STEP = StepRecord(
    stage=1, step=1, of=30, loss=1.25, val_accuracy=0.5, val_loss=1.0, best_val=0.5, queries=40, val_queries=2,
    sigma=0.4, seconds=1.5, peak_memory_mb=100.0,
)  # fmt: skip
DESCENT = replace(STEP, stage=2, val_accuracy=None, val_loss=None, sigma=None)


def test_steps_are_read_as_they_were_appended(tmp_path: Path) -> None:
    log = StepLog(tmp_path)
    steps = [STEP, replace(DESCENT, loss=math.inf), DESCENT]
    for step in steps:
        log.append(step)
    log.close()
    assert log.size == (tmp_path / STEPS).stat().st_size
    assert read_steps(tmp_path) == steps
    assert read_steps(tmp_path / "elsewhere") == []


def test_a_loss_that_is_not_a_number_is_null_in_the_file(tmp_path: Path) -> None:
    log = StepLog(tmp_path)
    log.append(replace(STEP, loss=math.nan, val_loss=math.nan))
    log.close()
    content = json.loads((tmp_path / STEPS).read_text())
    assert content["loss"] is content["val_loss"] is None
    assert read_steps(tmp_path) == [replace(STEP, loss=math.inf, val_loss=None)]


def test_the_log_is_cut_back_to_the_size_that_the_checkpoint_remembers(tmp_path: Path) -> None:
    log = StepLog(tmp_path)
    log.append(STEP)
    size = log.size
    log.append(DESCENT)
    log.close()
    again = StepLog(tmp_path, size)
    again.append(replace(DESCENT, step=2))
    again.close()
    assert read_steps(tmp_path) == [STEP, replace(DESCENT, step=2)]


@pytest.mark.parametrize("change", [{"stage": None}, {"seconds": "1"}, {"queries": 1.5}, {"step": True}])
def test_a_field_of_another_type_is_damage(change: dict[str, object], tmp_path: Path) -> None:
    lines = [json.dumps(STEP.to_json()), json.dumps({**STEP.to_json(), **change})]
    (tmp_path / STEPS).write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=r"line 2 is damaged \(\w+ is not .*\); delete that line, or tune again"):
        read_steps(tmp_path)


def test_a_last_line_that_is_half_written_is_left_out(tmp_path: Path) -> None:
    text = json.dumps(STEP.to_json()) + "\n"
    (tmp_path / STEPS).write_text(text + text[:20])
    assert read_steps(tmp_path) == [STEP]
