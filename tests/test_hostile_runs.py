"""A run folder from a stranger: nothing outside of it is written, read out or waited for, and damage is one line."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from PIL import Image
from tiny_settings import SMALL

import sharpzo_mlx as sz
from sharpzo_mlx.cli import main
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.runs.prompt_file import write_prompt
from sharpzo_mlx.runs.run import Run
from sharpzo_mlx.runs.step_log import STEPS, StepLog
from sharpzo_mlx.tuning import checkpointing
from sharpzo_mlx.tuning.pipeline import tune, tune_steps
from sharpzo_mlx.tuning.search import TuneStep

Capture = pytest.CaptureFixture[str]
Refused = Callable[..., str]


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run for one test."""
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture
def clip(tiny_model: Path) -> sz.Clip:
    return sz.load(tiny_model)


@pytest.fixture
def unfinished(clip: sz.Clip, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was stopped at its sixth step, with both checkpoints."""
    monkeypatch.setattr(checkpointing, "CHECKPOINT_SECONDS", 0)
    events = tune_steps(clip, photos, sz.TuneConfig().with_settings(SMALL), output=tmp_path / "part")
    steps = (event for event in events if isinstance(event, TuneStep))
    for _ in range(6):
        next(steps)
    events.close()  # type: ignore[attr-defined]
    return tmp_path / "part"


def change(path: Path, **changes: Any) -> None:
    """Replace entries of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# written through


@pytest.mark.parametrize("kind", ["link", "hard link", "dangling link", "pipe"])
def test_resume_writes_through_no_link(
    kind: str, unfinished: Path, photos: Path, clip: sz.Clip, tmp_path: Path
) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("precious\n" * 500)
    (unfinished / STEPS).unlink()
    if kind == "pipe":
        os.mkfifo(unfinished / STEPS)
    elif kind == "hard link":
        os.link(victim, unfinished / STEPS)
    else:
        (unfinished / STEPS).symlink_to(victim if kind == "link" else tmp_path / "new.txt")
    with pytest.raises(UserError, match=rf"{STEPS}: .*delete it"):
        tune(clip, photos, output=unfinished, resume=True)
    assert victim.read_text() == "precious\n" * 500
    assert not (tmp_path / "new.txt").exists()
    (unfinished / STEPS).unlink()
    assert tune(clip, photos, output=unfinished, resume=True).finished


def test_a_log_that_is_a_folder_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / STEPS).mkdir()
    with pytest.raises(IsADirectoryError):
        StepLog(tmp_path)


@pytest.mark.parametrize("name", ["run.json", "prompt.safetensors", "checkpoint.safetensors", "config.toml"])
def test_every_other_link_is_replaced(name: str, unfinished: Path, photos: Path, clip: sz.Clip, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (unfinished / name).rename(victim)
    (unfinished / name).symlink_to(victim)
    before = victim.read_bytes()
    tune(clip, photos, output=unfinished, resume=True)
    assert victim.read_bytes() == before
    assert not (unfinished / name).is_symlink()


# read out


@pytest.mark.parametrize("kind", ["parent", "absolute", "link"])
def test_a_page_has_no_image_from_outside_of_the_data(
    kind: str, run: Path, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "private").mkdir()
    Image.new("RGB", (200, 200), (12, 200, 77)).save(tmp_path / "private" / "passport.png")
    data = shutil.copytree(photos, tmp_path / "data")
    path = str(tmp_path / "private" / "passport.png")
    if kind == "parent":
        path = "../private/passport.png"
    elif kind == "link":
        (data / "cat" / "linked.png").symlink_to(path)
        path = "cat/linked.png"
    images = json.loads((run / "run.json").read_text())["images"]
    rows = [[path, 0], [path, 1], *images["test"][-3:]]
    change(run / "run.json", images={**images, "test": rows}, dataset=str(data))
    assert main.run(["report", str(run), "--no-landscape"]) == 0
    said, page = capsys.readouterr().err, (run / "report.html").read_text()
    assert f"outside of the data set {data}, so the page does not show such images" in said
    assert "passport.png" not in page
    assert "linked.png" not in page


def test_a_page_shows_the_images_of_the_data(run: Path, capsys: Capture) -> None:
    """Also where the data set is reached by a link."""
    data = Path(json.loads((run / "run.json").read_text())["dataset"])
    (run.parent / "linked").symlink_to(data)
    change(run / "run.json", dataset=str(run.parent / "linked"))
    assert main.run(["report", str(run), "--no-landscape"]) == 0
    assert "data:image/jpeg" in (run / "report.html").read_text()
    assert "outside" not in capsys.readouterr().err


# waited for


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_record_that_is_a_pipe_or_a_device_is_one_line(kind: str, run: Path, photos: Path, refused: Refused) -> None:
    (run / "run.json").unlink()
    os.mkfifo(run / "run.json") if kind == "pipe" else (run / "run.json").symlink_to("/dev/zero")
    assert "run.json: not a regular file" in refused("predict", run, photos / "cat" / "0.png")


@pytest.mark.parametrize("name", ["steps.jsonl", "evaluations.json"])
def test_a_part_that_is_a_pipe_is_left_out_of_the_page(name: str, run: Path, capsys: Capture) -> None:
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    assert main.run(["report", str(run), "--no-landscape"]) == 0
    assert f"{run / name}: " in capsys.readouterr().err


def test_lists_beside_images_that_are_pipes_are_one_line(
    run: Path, photos: Path, tiny_model: Path, tmp_path: Path, refused: Refused
) -> None:
    os.mkfifo(tmp_path / "map")
    line = refused("evaluate", run, photos, "--mapping", tmp_path / "map")
    assert "cannot be read as a mapping (not a regular file)" in line
    data = shutil.copytree(photos, tmp_path / "data")
    os.mkfifo(data / "split_zhou_x.json")
    line = refused("tune", data, "--model", tiny_model, "--output", tmp_path / "new")
    assert "split_zhou_x.json: no split file" in line
    assert "not a regular file" in line
    os.mkfifo(tmp_path / "settings.toml")
    line = refused("tune", photos, "--config", tmp_path / "settings.toml", "--output", tmp_path / "new")
    assert "settings.toml: not a regular file" in line


# damaged


@pytest.mark.parametrize("name", ["run.json", "prompt.safetensors"])
@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff", b"NaN", b""])
def test_what_a_run_cannot_do_without_is_one_line(
    name: str, content: bytes, run: Path, photos: Path, refused: Refused
) -> None:
    (run / name).write_bytes(content)
    for words in (["report", run], ["evaluate", run, photos], ["predict", run, photos / "cat" / "0.png"]):
        assert f"{run / name}: " in refused(*words)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"images": {"train": [], "val": [], "test": [["a.jpg"]]}}, "images.test[0] has 1 entries, not 2"),
        ({"images": {"train": [], "val": [], "test": [["a.jpg", 3]]}}, "images.test[0] has label 3, of 3 classes"),
        ({"config": []}, "config is not an object"),
        ({"config": {"stage1": {"sigma": "wide"}}}, "config: stage1.sigma 'wide': give a number"),
        ({"config": {"head": "magic"}}, "config: head 'magic': choose one of"),
        ({"results": {"zero_shot": 1.5}}, "results."),
    ],
)
def test_a_damaged_field_is_named(changes: dict[str, Any], field: str, run: Path, refused: Refused) -> None:
    change(run / "run.json", **changes)
    line = refused("report", run)
    assert line.startswith(f"error: {run / 'run.json'}: damaged ({field}")


def test_a_prompt_of_other_classes_is_refused(run: Path, refused: Refused) -> None:
    change(run / "run.json", class_names=["cat", "dog", "owl"])
    assert "prompt.safetensors: of other classes than run.json" in refused("report", run)


@pytest.mark.parametrize("damage", ["gone", "cut", "deep", "huge"])
def test_a_page_without_its_steps(damage: str, run: Path, capsys: Capture) -> None:
    path = run / STEPS
    if damage == "gone":
        path.unlink()
    elif damage == "huge":
        os.truncate(path, 1 << 40)
    else:
        path.write_bytes(
            path.read_bytes()[: 20 if damage == "cut" else 0] + b"[" * 100_000 * (damage == "deep") + b"\n"
        )
    assert main.run(["report", str(run), "--no-landscape"]) == 0
    assert "note: the curves are left out of the page: " in capsys.readouterr().err
    page = (run / "report.html").read_text()
    assert "<h2>The search</h2>" not in page
    assert "data:image/jpeg" in page


def test_a_run_is_still_used_when_parts_for_the_page_are_damaged(run: Path, photos: Path, capsys: Capture) -> None:
    (run / STEPS).write_text("damage\n")
    (run / "evaluations.json").write_text("[" * 100_000)
    assert main.run(["predict", str(run), str(photos / "cat" / "0.png")]) == 0
    assert main.run(["evaluate", str(run), str(photos)]) == 0
    assert "damaged (no JSON that can be read (nested more than 32 deep))" in capsys.readouterr().err
    assert len(json.loads((run / "evaluations.json").read_text())) == 1


def test_a_finished_run_without_its_prompt_says_what_is_left_to_do(
    run: Path, photos: Path, tiny_model: Path, refused: Refused
) -> None:
    (run / "prompt.safetensors").unlink()
    assert "though the run is finished; tune again" in refused("predict", run, photos / "cat" / "0.png")
    line = refused("tune", photos, "--model", tiny_model, "--output", run, "--resume")
    assert "its prompt.safetensors is missing; choose another --output" in line


# a folder that vanishes


@pytest.mark.parametrize("when", ["in the search", "at its end"])
def test_a_folder_that_vanishes_is_no_finished_run(
    when: str, clip: sz.Clip, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpointing, "CHECKPOINT_SECONDS", 0)
    config = sz.TuneConfig().with_settings(SMALL)

    def carry_out() -> None:
        for event in tune_steps(clip, photos, config, output=tmp_path / "r"):
            if isinstance(event, TuneStep) and event.stage == 2 and event.step == (3 if when[0] == "i" else event.of):
                shutil.rmtree(tmp_path / "r")

    with pytest.raises(UserError, match=r"r: removed or replaced while it was written to; tune again"):
        carry_out()
    assert not (tmp_path / "r" / "run.json").exists()


def test_a_prompt_that_vanishes_is_written_again(
    clip: sz.Clip, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpointing, "CHECKPOINT_SECONDS", 0)
    config = sz.TuneConfig(head="none").with_settings(SMALL)
    for event in tune_steps(clip, photos, config, output=tmp_path / "r"):
        if isinstance(event, TuneStep) and event.stage == 2 and event.step == event.of:
            Run.load(tmp_path / "r")
            (tmp_path / "r" / "prompt.safetensors").unlink()
    assert Run.load(tmp_path / "r").prompt.class_names == ("barn owl", "cat", "dog")


@pytest.mark.parametrize("width", [3, 5])
def test_a_prompt_of_another_width_is_refused(width: int, run: Path, photos: Path, refused: Refused) -> None:
    """All its arrays fit one another, but not the model."""
    prompt = Run.load(run).prompt
    rows = mx.ones((len(prompt.class_names), width))
    write_prompt(run / "prompt.safetensors", replace(prompt, class_features=rows, zero_shot_features=rows, head=None))
    for words in (["predict", run, photos / "cat" / "0.png"], ["evaluate", run, photos]):
        assert f"{run / 'prompt.safetensors'}: damaged (class_features of width {width}, the model's" in refused(*words)


def test_a_prompt_of_another_dimension_is_refused(run: Path, refused: Refused) -> None:
    write_prompt(run / "prompt.safetensors", replace(Run.load(run).prompt, w=mx.zeros((3,))))
    assert "damaged (w has 3 numbers, not space.dimension)" in refused("report", run)


def test_a_prompt_of_huge_numbers_is_refused_and_of_large_ones_shown(run: Path, refused: Refused) -> None:
    prompt = Run.load(run).prompt
    write_prompt(run / "prompt.safetensors", replace(prompt, w=mx.full(prompt.w.shape, 3e38)))
    assert "prompt.safetensors: damaged (w has numbers beyond 1e+12)" in refused("report", run)
    write_prompt(run / "prompt.safetensors", replace(prompt, w=mx.full(prompt.w.shape, 1e12)))
    assert main.run(["report", str(run)]) == 0
