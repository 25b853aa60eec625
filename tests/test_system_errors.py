"""What a Mac's system refuses is one line with a remedy: the GPU's memory, private folders, locks on network shares."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sharpzo_mlx as sz
from sharpzo_mlx.cli import main, progress
from sharpzo_mlx.convert.output import fill, resolve
from sharpzo_mlx.datasets.folder import checked_folder, read_folder
from sharpzo_mlx.files import check_place
from sharpzo_mlx.runs.run import Run, locked
from sharpzo_mlx.runtime import startup
from sharpzo_mlx.tuning import pipeline
from sharpzo_mlx.tuning.pipeline import Event, Plan

Capture = pytest.CaptureFixture[str]
GPU_ERRORS = [
    "[METAL] Command buffer execution failed: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackError).",
    "[metal::malloc] Attempting to allocate 9000000000 bytes which is greater than the maximum allowed buffer size.",
    "[malloc] Unable to allocate 9000000000 bytes.",
]


@pytest.mark.parametrize("words", GPU_ERRORS)
def test_a_gpu_that_gives_up_is_one_line(words: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def fail(**_: Any) -> None:
        raise RuntimeError(words + "\nat device.cpp:540")

    monkeypatch.setattr(main.cli, "main", lambda *_, **__: fail())
    assert main.run(["tune", "photos"]) == 2
    expected = f"error: {words.rstrip('.')}; lower --memory-budget or close other programs; "
    assert capsys.readouterr().err == expected + "`tune --output RUN --resume` continues a run\n"


def test_other_errors_of_mlx_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("[matmul] Last dimension of first input")

    monkeypatch.setattr(main.cli, "main", fail)
    with pytest.raises(RuntimeError, match="matmul"):
        main.run(["tune", "photos"])


def test_a_gpu_error_names_the_run_that_goes_on() -> None:
    def events() -> Iterator[Event]:
        yield Plan(Path("my runs/a"), 2, 4, 4, 10, 1.0, 0.5)
        raise RuntimeError(GPU_ERRORS[0])

    stream = io.StringIO()
    with pytest.raises(RuntimeError, match="METAL"):
        progress.follow(events(), stream)
    assert stream.getvalue().splitlines()[-1].endswith("--output 'my runs/a' --resume continues the run")


def test_the_remedy_of_a_gpu_error_is_accepted(tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    """A run that stopped goes on with a lower memory budget."""
    config = sz.TuneConfig(shots=2, generations=2, steps=2).with_settings({"space.dimension": 4})
    steps = pipeline.tune_steps(sz.load(tiny_model), photos, config, output=tmp_path / "run")
    next(event for event in steps if isinstance(event, Plan))
    steps.close()  # type: ignore[attr-defined]
    lower = Run.load(tmp_path / "run").config.with_settings({"memory_budget": 50_000_000})
    done = pipeline.tune(sz.load(tiny_model), photos, lower, output=tmp_path / "run", resume=True)
    assert done.finished
    assert done.config.memory_budget == 50_000_000


def test_a_gpu_error_while_converting_is_not_blamed_on_the_disk(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="malloc"), fill(tmp_path / "m"):
        raise RuntimeError(GPU_ERRORS[1])
    assert not list(tmp_path.iterdir())


# privacy


def refuse(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def scandir(place: str | Path) -> Any:
        raise PermissionError(code, os.strerror(code), str(place))

    monkeypatch.setattr(os, "scandir", scandir)


@pytest.mark.parametrize(
    ("system", "code", "remedy"),
    [
        ("darwin", errno.EPERM, "operation not permitted; allow it for your terminal in System Settings, Privacy & "),
        ("darwin", errno.EACCES, "permission denied; allow reading it"),
        ("linux", errno.EPERM, "operation not permitted; allow reading it"),
    ],
)
def test_a_private_folder_names_the_settings_of_a_mac(
    system: str, code: int, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, code)
    monkeypatch.setattr(sys, "platform", system)
    with pytest.raises(sz.UserError) as error:
        read_folder(tmp_path)
    assert str(error.value).startswith(f"{tmp_path}: {remedy}")


def test_a_private_folder_that_has_no_access_names_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, errno.EPERM)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(sz.UserError, match="allow it for your terminal in System Settings"):
        checked_folder(tmp_path)


def test_a_private_place_for_output_names_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**_: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(sz.UserError, match=r"not permitted.; allow it .* Privacy & Security, Files and Folders$"):
        check_place(tmp_path)


def test_a_private_file_names_them_at_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", "Documents/x.png")

    monkeypatch.setattr(main.cli, "main", fail)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(startup, "unsupported", lambda: None)
    assert main.run(["predict"]) == 2
    assert "Documents/x.png: operation not permitted; allow it for your terminal" in capsys.readouterr().err


def test_a_private_image_names_them_as_its_reason(
    finished_run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    monkeypatch.setattr("sharpzo_mlx.images.decode.open_stored", refused)
    monkeypatch.setattr(sys, "platform", "darwin")
    error = sz.predict(finished_run, photos / "cat" / "1.png")[0].error
    assert error is not None
    assert error.startswith("operation not permitted; allow it for your terminal in System Settings")


# locks


@pytest.mark.parametrize("code", [errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS])
def test_a_share_without_locks_gets_a_notice(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fcntl, "flock", refuse_lock(code))
    with locked(tmp_path / "run"):
        (tmp_path / "run" / "run.json").write_text("{}")
    reason = os.strerror(code).lower()
    expected = f"{tmp_path / 'run'}: its disk has no locks ({reason}); let no other process tune into this folder"
    assert caplog.messages == [expected]
    assert (tmp_path / "run" / "run.json").is_file()


def test_other_errors_of_a_lock_are_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", refuse_lock(errno.EIO))
    with pytest.raises(OSError, match="output error"), locked(tmp_path / "run"):
        pass


def refuse_lock(code: int) -> Callable[..., None]:
    def flock(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    return flock


# what the Finder leaves


@pytest.mark.parametrize("name", [".DS_Store", "._notes"])
def test_a_folder_that_the_finder_has_shown_is_empty(name: str, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / name).write_text("")
    assert resolve(tmp_path / "m", force=False) == tmp_path / "m"
    (tmp_path / "m" / "notes").write_text("mine")
    with pytest.raises(sz.UserError, match="not just a model folder"):
        resolve(tmp_path / "m", force=False)


def test_a_model_is_put_where_the_finder_was(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / ".DS_Store").write_text("")
    with fill(resolve(tmp_path / "m", force=False)) as folder:
        for file in tiny_model.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
    assert {path.name for path in (tmp_path / "m").iterdir()} == {path.name for path in tiny_model.iterdir()}
    (tmp_path / "m" / "._config.json").write_text("")
    assert resolve(tmp_path / "m", force=True) == tmp_path / "m"  # it is still ours
