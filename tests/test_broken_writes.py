"""Full disks, killed writers and damaged checkpoints: one line that names the file, nothing lost, nothing left."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from test_tuning_resume import same_prompt
from tiny_settings import SMALL

import sharpzo_mlx as sz
from sharpzo_mlx import files
from sharpzo_mlx.cli import main
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.evaluation.reports import EVALUATIONS
from sharpzo_mlx.files import atomic_path, atomic_write
from sharpzo_mlx.runs.checkpoint import BEFORE, CHECKPOINT, load_checkpoint, save_checkpoint
from sharpzo_mlx.runs.run import Run
from sharpzo_mlx.tuning import checkpointing
from sharpzo_mlx.tuning.pipeline import tune, tune_steps
from sharpzo_mlx.tuning.search import TuneStep

Capture = pytest.CaptureFixture[str]
CONFIG = sz.TuneConfig().with_settings(SMALL)


@pytest.fixture
def small_files() -> Iterator[None]:
    """Let no file grow beyond 16 KiB, as a full disk or a quota does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 << 10, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def clip(tiny_model: Path) -> sz.Clip:
    return sz.load(tiny_model)


@pytest.fixture
def straight(clip: sz.Clip, photos: Path, tmp_path: Path) -> Path:
    """A run without interruption."""
    return tune(clip, photos, CONFIG, output=tmp_path / "straight").folder


@pytest.fixture
def unfinished(clip: sz.Clip, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was stopped at its twelfth step; its checkpoints are of the tenth and the twelfth."""
    monkeypatch.setattr(checkpointing, "CHECKPOINT_SECONDS", 0)
    events = tune_steps(clip, photos, CONFIG, output=tmp_path / "part")
    steps = (event for event in events if isinstance(event, TuneStep))
    for _ in range(12):
        next(steps)
    events.close()  # type: ignore[attr-defined]
    return tmp_path / "part"


# full disks


def test_mlx_that_cannot_write_is_an_error_of_the_system(small_files: None, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_text("before")
    with (
        pytest.raises(OSError, match="too large") as raised,
        atomic_path(tmp_path / "a.safetensors") as temporary,
    ):
        mx.save_safetensors(str(temporary), {"x": mx.zeros(100_000)})
    assert (raised.value.errno, raised.value.filename) == (errno.EFBIG, str(tmp_path / "a.safetensors"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    assert (tmp_path / "a.safetensors").read_text() == "before"


def test_a_write_that_fails_for_no_reason_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="could not be written whole") as raised, atomic_path(tmp_path / "a.safetensors"):
        raise RuntimeError("[write] Unable to write 7 bytes to file.")
    assert (raised.value.errno, raised.value.filename) == (errno.EIO, str(tmp_path / "a.safetensors"))
    with pytest.raises(RuntimeError, match="matmul"), atomic_path(tmp_path / "a.safetensors"):
        raise RuntimeError("[matmul] Last dimension")


def test_a_text_that_cannot_be_written_names_its_place(small_files: None, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too large") as raised:
        atomic_write(tmp_path / "a.json", "x" * 100_000)
    assert raised.value.filename == str(tmp_path / "a.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.EFBIG, "; make room; `tune --output RUN --resume` continues a run"),
        (errno.ENOSPC, "; make room; `tune --output RUN --resume` continues a run"),
        (errno.EIO, ""),
        (errno.ENXIO, ""),
        (errno.ENOENT, "; name another path"),
    ],
)
def test_errors_of_a_disk_are_one_line(
    code: int, advice: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code), "r/checkpoint.safetensors")

    monkeypatch.setattr(main.cli, "main", fail)
    assert main.run(["tune", "photos"]) == 2
    assert capsys.readouterr().err == f"error: r/checkpoint.safetensors: {os.strerror(code).lower()}{advice}\n"


def test_a_run_on_a_full_disk_goes_on_when_there_is_room(
    straight: Path, clip: sz.Clip, photos: Path, tmp_path: Path
) -> None:
    """In a process of its own, because SIGXFSZ and the limit are of the whole process."""
    script = (
        "import resource, sys; from sharpzo_mlx.cli import main; from sharpzo_mlx.clip.handle import load\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))\n"
        "sys.exit(main.run(sys.argv[2:]))"
    )
    flags = [f"{name}={str(value).lower()}" for name, value in SMALL.items() if "." in name]
    plain = [word for name in ("head", "shots", "generations", "steps") for word in (f"--{name}", str(SMALL[name]))]
    words = ["tune", photos, "--model", clip.folder, "--output", tmp_path / "r", "--no-report", *plain]
    words += [word for flag in flags for word in ("--set", flag)]
    limits = ((1 << 10, "run.json"), (6 << 10, "steps.jsonl"))
    for limit, name in limits:
        done = subprocess.run(
            [sys.executable, "-c", script, str(limit), *map(str, words), "--resume"], capture_output=True, text=True
        )
        assert done.returncode == 2, done.stderr
        assert f"error: {tmp_path / 'r' / name}: file too large; make room" in done.stderr
        assert "Traceback" not in done.stderr
    assert not list((tmp_path / "r").glob(".*"))
    assert main.run([*map(str, words), "--resume"]) == 0
    same_prompt(straight, tmp_path / "r")


# what killed processes leave


def test_a_killed_writers_file_is_removed_and_a_living_writers_is_not(tmp_path: Path) -> None:
    place = tmp_path / "report[1].html"
    script = (
        "import os, sys, signal; from pathlib import Path; from sharpzo_mlx.files import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as temporary: os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, str(place)], check=False)
    (left,) = tmp_path.iterdir()
    (tmp_path / ".report[1]-mine.html").write_text("a user's own")
    with atomic_path(place) as living:
        assert not left.exists()
        atomic_write(place, "second")  # by another writer meanwhile
        assert living.exists()
        living.write_text("first")
    assert place.read_text() == "first"
    assert {path.name for path in tmp_path.iterdir()} == {place.name, ".report[1]-mine.html"}


def test_many_writers_of_one_file_take_nothing_from_one_another(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def write() -> None:
        try:
            for number in range(40):
                atomic_write(tmp_path / "a.json", str(number))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_disk_without_locks_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOTSUP, "no locks")

    monkeypatch.setattr(files.fcntl, "flock", refuse)  # type: ignore[attr-defined]
    atomic_write(tmp_path / "a.json", "x")
    assert (tmp_path / "a.json").read_text() == "x"


def test_evaluate_and_report_sweep_what_they_left(finished_run: Path, photos: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    for name in (EVALUATIONS, "report.html", "curves.png"):
        stem, suffix = name.split(".")
        (run / f".{stem}-{files.OWN}abcd1234.{suffix}").write_text("half")
    assert main.run(["evaluate", str(run), str(photos)]) == 0
    assert main.run(["report", str(run), "--no-landscape", "--png"]) == 0
    assert not list(run.glob(".*"))


def test_a_run_that_was_killed_at_its_very_end_is_tidied(
    straight: Path, unfinished: Path, clip: sz.Clip, photos: Path
) -> None:
    for name in (CHECKPOINT, BEFORE):
        shutil.copy(unfinished / name, straight / name)
        (straight / f".{name.split('.')[0]}-abcd1234.safetensors").write_text("half")
    tune(clip, photos, CONFIG, output=straight, resume=True)
    assert not list(straight.glob("*checkpoint*"))
    assert not list(straight.glob(".*"))


# damaged checkpoints


def flip(path: Path) -> None:
    """Change one bit of the last array."""
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "nested", "gone", "shape"])
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    damage: str, straight: Path, unfinished: Path, clip: sz.Clip, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = unfinished / CHECKPOINT
    content = path.read_bytes()
    if damage == "flipped":
        flip(path)
    elif damage == "cut":
        path.write_bytes(content[:-10])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "nested":
        mx.save_safetensors(str(path), {"x": mx.zeros(3)}, {"facts": "[" * 100_000})
    elif damage == "shape":
        arrays, facts = load_checkpoint(path)
        save_checkpoint(unfinished / "..", {**arrays, "best_w": mx.zeros(3)}, facts)
        (unfinished / ".." / CHECKPOINT).replace(path)
    else:
        path.unlink()
    run = tune(clip, photos, CONFIG, output=unfinished, resume=True)
    assert run.finished
    assert ("continued from the one before, " + BEFORE in caplog.text) == (damage != "gone")
    same_prompt(straight, unfinished)
    assert (unfinished / "steps.jsonl").read_text().count("\n") == (straight / "steps.jsonl").read_text().count("\n")
    assert not list(unfinished.glob("checkpoint*"))


def test_a_run_without_a_whole_checkpoint_says_what_to_delete(
    straight: Path, unfinished: Path, clip: sz.Clip, photos: Path
) -> None:
    for name in (CHECKPOINT, BEFORE):
        flip(unfinished / name)
    with pytest.raises(UserError, match=f"{BEFORE}: damaged .*; delete {CHECKPOINT} and {BEFORE} to begin"):
        tune(clip, photos, CONFIG, output=unfinished, resume=True)
    for name in (CHECKPOINT, BEFORE):
        (unfinished / name).unlink()
    tune(clip, photos, CONFIG, output=unfinished, resume=True)
    same_prompt(straight, unfinished)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"step": "3"}, "step is not a whole number"),
        ({"stage": 3}, "stage is 3, which is none of its values"),
        ({"log_size": -1}, "log_size is not at least 0"),
        ({"log_size": None}, "log_size is not a whole number"),
        ({"total_steps": 10**9}, "total_steps is 1000000000, of 30 at most"),
        (
            {"selection": {"best": {"accuracy": 2, "loss": 1.0, "images": 3}, "top": 1, "first": 0}},
            "selection.best.acc",
        ),
        ({"selection": None}, "selection is not an object"),
        ({"best_w": mx.array([mx.nan] * 16)}, "best_w has numbers that are not finite"),
        ({"cma.count": mx.zeros((2,), mx.int32)}, r"cma.count is mlx.core.int32 of shape \(2,\)"),
        ({"cma.sigma": mx.array(1, mx.int32)}, "cma.sigma is mlx.core.int32 of shape"),
    ],
)
def test_a_damaged_number_or_array_is_named(
    change: dict[str, Any], said: str, unfinished: Path, clip: sz.Clip, photos: Path
) -> None:
    arrays, facts = load_checkpoint(unfinished / CHECKPOINT)
    for name, value in change.items():
        (arrays if isinstance(value, mx.array) else facts)[name] = value
    save_checkpoint(unfinished, arrays, facts)
    (unfinished / BEFORE).unlink()
    with pytest.raises(UserError, match=rf"{CHECKPOINT}: damaged \({said}"):
        tune(clip, photos, CONFIG, output=unfinished, resume=True)
    assert json.loads((unfinished / "run.json").read_text())["status"] != "finished"
    assert Run.load(unfinished).prompt.class_names
