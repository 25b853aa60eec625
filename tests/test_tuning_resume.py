"""A run that is stopped, killed or begun again: it continues to the same numbers, or says what differs."""

from __future__ import annotations

import dataclasses
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from tiny_settings import SMALL

import sharpzo_mlx as sz
from sharpzo_mlx.features.extract import Features, encode
from sharpzo_mlx.runs.resume import check_content, open_run
from sharpzo_mlx.runs.run import Run
from sharpzo_mlx.runs.settings_file import read_settings
from sharpzo_mlx.runs.step_log import read_steps
from sharpzo_mlx.tuning import checkpointing
from sharpzo_mlx.tuning.pipeline import tune, tune_steps
from sharpzo_mlx.tuning.search import Search, TuneStep
from sharpzo_mlx.tuning.search_state import SearchState


@pytest.fixture
def clip(tiny_model: Path) -> sz.Clip:
    return sz.load(tiny_model)


LONG = {**SMALL, "steps": 800}  # long enough to be cut off on a busy machine


def same_prompt(one: Path, other: Path) -> None:
    a, b = Run.load(one).prompt, Run.load(other).prompt
    for name in ("context", "w", "class_features", "zero_shot_features"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def test_one_seed_makes_one_result_and_another_makes_another(clip: sz.Clip, photos: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        tune(clip, photos, sz.TuneConfig(seed=seed).with_settings(SMALL), output=tmp_path / name)
    same_prompt(tmp_path / "a", tmp_path / "b")
    a, c = (Run.load(tmp_path / name) for name in ("a", "c"))
    assert float(mx.max(mx.abs(a.prompt.context - c.prompt.context))) > 0
    assert a.record.images != c.record.images


SCRIPT = """
import sys, sharpzo_mlx as sz
from sharpzo_mlx.tuning import checkpointing
checkpointing.CHECKPOINT_SECONDS = 0.05
model, photos, output, options = sys.argv[1], sys.argv[2], sys.argv[3], eval(sys.argv[4])
sz.tune(sz.load(model), photos, sz.TuneConfig().with_settings(options), output=output, resume=True, report=False)
"""


def start(model: Path, photos: Path, output: Path, options: dict[str, Any]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", SCRIPT, str(model), str(photos), str(output), repr(options)]
    with open(f"{output}.errors", "ab") as errors:
        return subprocess.Popen(command, stderr=errors)


def wait_for_steps(folder: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    log = folder / "steps.jsonl"
    while not (log.is_file() and log.read_bytes().count(b"\n") >= count and (folder / "prompt.safetensors").exists()):
        assert process.poll() is None, Path(f"{folder}.errors").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(scope="module")
def whole(tiny_model: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a long run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHARPZO_MLX_CACHE", str(folder / "cache"))
        assert start(tiny_model, photos, folder / "run", LONG).wait(120) == 0
    return folder / "run"


def test_a_killed_run_goes_on_to_the_same_prompt(whole: Path, tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    for count in (20, 120, 280):  # three kills, at moments nobody chose
        process = start(tiny_model, photos, tmp_path / "cut", LONG)
        wait_for_steps(tmp_path / "cut", count, process)
        process.kill()
        process.wait()
        assert not Run.load(tmp_path / "cut").finished
    assert start(tiny_model, photos, tmp_path / "cut", LONG).wait(120) == 0
    same_prompt(whole, tmp_path / "cut")
    numbers = [
        [dataclasses.replace(s, seconds=0.0, peak_memory_mb=0.0) for s in read_steps(folder)]
        for folder in (whole, tmp_path / "cut")
    ]
    assert numbers[0] == numbers[1]


def test_an_interrupted_run_can_be_used_and_goes_on(
    whole: Path, tiny_model: Path, photos: Path, tmp_path: Path
) -> None:
    process = start(tiny_model, photos, tmp_path / "run", LONG)
    wait_for_steps(tmp_path / "run", 100, process)
    process.send_signal(signal.SIGINT)
    process.wait(30)
    run = Run.load(tmp_path / "run")
    assert run.record.status == "interrupted"
    assert run.results.test is None
    assert len(sz.evaluate(run, [photos]).folders) == 1
    done = tune(sz.load(tiny_model), photos, output=run.folder, resume=True)
    assert done.finished
    assert done.config == run.config
    same_prompt(whole, tmp_path / "run")


def test_stopped_before_the_first_generation_there_is_zero_shot(clip: sz.Clip, photos: Path, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise KeyboardInterrupt

    steps = tune_steps(clip, photos, sz.TuneConfig().with_settings(SMALL), output=tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sharpzo_mlx.optimisers.cma.ask", refuse)
        with pytest.raises(KeyboardInterrupt):
            list(steps)
    result = sz.evaluate(tmp_path / "run", photos).folders[0]
    assert result.tuned == result.zero_shot
    assert tune(clip, photos, output=tmp_path / "run", resume=True).finished


def test_an_interrupt_between_two_writes_doubles_nothing(clip: sz.Clip, photos: Path, tmp_path: Path) -> None:
    steps = tune_steps(clip, photos, sz.TuneConfig().with_settings(SMALL), output=tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        state = Search.state

        def interrupted(self: Search) -> SearchState:
            if self.now.step == 3:
                raise KeyboardInterrupt
            return state(self)

        patch.setattr(Search, "state", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(steps)
    tune(clip, photos, output=tmp_path / "run", resume=True)
    assert [s.step for s in read_steps(tmp_path / "run")] == [*range(1, 6), *range(1, 31)]


def test_a_half_written_step_is_cut_back(clip: sz.Clip, photos: Path, tmp_path: Path) -> None:
    steps = tune_steps(clip, photos, sz.TuneConfig().with_settings(SMALL), output=tmp_path / "run")
    for event in steps:
        if isinstance(event, TuneStep) and event.step == 3:
            break
    steps.close()  # type: ignore[attr-defined]
    with (tmp_path / "run" / "steps.jsonl").open("ab") as log:
        log.write(b'{"stage": 1, "st')
    tune(clip, photos, output=tmp_path / "run", resume=True)
    assert [s.step for s in read_steps(tmp_path / "run")] == [*range(1, 6), *range(1, 31)]


def test_resume_starts_what_is_not_there_and_returns_what_is_done(clip: sz.Clip, photos: Path, tmp_path: Path) -> None:
    config = sz.TuneConfig().with_settings(SMALL)
    first = tune(clip, photos, config, output=tmp_path / "run", resume=True)
    stamp = (tmp_path / "run" / "run.json").stat().st_mtime_ns
    again = tune(clip, photos, config, output=tmp_path / "run", resume=True)
    assert again.results == first.results
    assert (tmp_path / "run" / "run.json").stat().st_mtime_ns == stamp


def test_a_finished_run_is_not_that_of_another_data_set(clip: sz.Clip, photos: Path, tmp_path: Path) -> None:
    first = tune(clip, photos, sz.TuneConfig().with_settings(SMALL), output=tmp_path / "run")
    others = shutil.copytree(photos, tmp_path / "others")
    for image in (others / "dog").iterdir():  # the same names, but other images
        shutil.copy(photos / "cat" / "1.png", image)
    for other in (others, tmp_path / "absent"):
        with pytest.raises(sz.UserError) as error:
            tune(clip, other, output=tmp_path / "run", resume=True)
        assert f"run: tuned on {photos}, not {other};" in str(error.value)
    (tmp_path / "link").symlink_to(photos)
    for same in (photos, tmp_path / "link", shutil.copytree(photos, tmp_path / "copy")):
        assert tune(clip, same, output=tmp_path / "run", resume=True).results == first.results


def test_a_finished_run_is_not_that_of_another_model(
    clip: sz.Clip, photos: Path, tmp_path: Path, tiny_model: Path
) -> None:
    tune(clip, photos, sz.TuneConfig().with_settings(SMALL), output=tmp_path / "run")
    other = sz.load(shutil.copytree(tiny_model, tmp_path / "other"))
    other.__dict__["fingerprint"] = "another"
    with pytest.raises(sz.UserError) as error:
        tune(other, photos, output=tmp_path / "run", resume=True)
    assert f"tuned {clip.folder}, not {other.folder}" in str(error.value)


def test_a_second_run_never_overwrites_the_first(
    clip: sz.Clip, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    quick = sz.TuneConfig().with_settings({**SMALL, "generations": 1, "steps": 0})
    names = [tune(clip, photos, quick).folder for _ in range(2)]
    assert names == [Path(f"runs/{photos.name}-m-0"), Path(f"runs/{photos.name}-m-0-2")]
    with pytest.raises(sz.UserError, match="--resume"):
        tune(clip, photos, quick, output=names[0])
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    with pytest.raises(sz.UserError, match="no run; choose another"):
        tune(clip, photos, quick, output=tmp_path / "notes")
    assert (tmp_path / "notes" / "mine.txt").read_text() == "keep"


def test_going_on_with_something_else_names_the_difference(
    clip: sz.Clip, photos: Path, tmp_path: Path, tiny_model: Path
) -> None:
    config = sz.TuneConfig().with_settings(SMALL)
    steps = tune_steps(clip, photos, config, output=tmp_path / "run")
    next(e for e in steps if isinstance(e, TuneStep))
    steps.close()  # type: ignore[attr-defined]
    with pytest.raises(sz.UserError, match=r"begun with sharpness\.rho .*, not 0\.7"):
        tune(clip, photos, config.with_settings({"sharpness.rho": 0.7}), output=tmp_path / "run", resume=True)
    moved = shutil.copytree(photos, tmp_path / "moved")
    assert tune(clip, moved, config, output=tmp_path / "run", resume=True).finished


def begun(clip: sz.Clip, dataset: Path, folder: Path) -> None:
    """A run that was stopped after its first generation."""
    steps = tune_steps(clip, dataset, sz.TuneConfig().with_settings(SMALL), output=folder)
    next(e for e in steps if isinstance(e, TuneStep))
    steps.close()  # type: ignore[attr-defined]


def test_images_that_are_gone_or_changed_are_noticed(clip: sz.Clip, photos: Path, tmp_path: Path) -> None:
    own = shutil.copytree(photos, tmp_path / "own")
    begun(clip, own, tmp_path / "run")
    for image in (own / "dog").iterdir():
        shutil.copy(own / "cat" / "1.png", image)
    with pytest.raises(sz.UserError, match="have changed since"):
        tune(clip, own, output=tmp_path / "run", resume=True)
    shutil.rmtree(own / "dog")
    with pytest.raises(sz.UserError, match="gone, but drawn for"):
        tune(clip, own, output=tmp_path / "run", resume=True)


def test_a_run_without_validation_images_goes_on(clip: sz.Clip, photos: Path, tmp_path: Path) -> None:
    """One image a class: the empty set is kept on disk, comes back, and the content is checked as ever."""
    for name in ("cat", "dog"):
        (tmp_path / "own" / name).mkdir(parents=True)
        shutil.copy(photos / name / "1.png", tmp_path / "own" / name)
    (tmp_path / "run").mkdir()

    def opened(*, resume: bool) -> tuple[Run, list[Features]]:
        config = sz.TuneConfig(head="gda")
        run, images = open_run(clip, tmp_path / "own", config, folder=tmp_path / "run", resume=resume)
        assert {name: part.counts() for name, part in images.items()} == {"train": [1, 1], "val": [0, 0]}
        return run, [encode(clip, part) for part in images.values()]

    run, sets = opened(resume=False)
    check_content(run, *sets)
    run.save()
    assert Run.load(run.folder).record.images.val == ()
    run, sets = opened(resume=True)
    check_content(run, *sets)
    shutil.copy(photos / "cat" / "1.png", tmp_path / "own" / "dog")
    run, sets = opened(resume=True)
    with pytest.raises(sz.UserError, match="have changed since"):
        check_content(run, *sets)


def test_linked_images_and_relative_folders_go_on(
    clip: sz.Clip, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for image in sorted(photos.glob("*/*")):
        link = tmp_path / "linked" / image.parent.name / image.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(image)
    monkeypatch.chdir(tmp_path)
    begun(clip, Path("linked"), Path("run"))
    assert tune(clip, "linked", output="run", resume=True).finished


def test_a_run_writes_the_settings_that_repeat_it(clip: sz.Clip, photos: Path, tmp_path: Path) -> None:
    first = tune(clip, photos, sz.TuneConfig(seed=3).with_settings(SMALL), output=tmp_path / "first")
    settings = read_settings(first.folder / "config.toml")
    again = sz.TuneConfig().with_settings(settings)
    assert again == first.config
    tune(clip, photos, again, output=tmp_path / "again")
    same_prompt(tmp_path / "first", tmp_path / "again")


def test_checkpoints_are_at_most_half_a_minute_apart() -> None:
    assert checkpointing.CHECKPOINT_SECONDS <= 30
