"""An export that is killed or interrupted at any moment: all of it is there or nothing, and the next one clears up."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sharpzo_mlx as sz
from sharpzo_mlx.cli import main
from sharpzo_mlx.exporting import output

# one process forks a child for every moment, for the import takes longer than all else; nothing of MLX runs in it
STOPPED_EVERYWHERE = """
import json, os, shutil, signal, sys
from pathlib import Path
from sharpzo_mlx.exporting import output

place, kind = Path(sys.argv[1]), sys.argv[2]
EVENTS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "shutil.rmtree", "fcntl.flock", "os.scandir"}
stop = [-1, signal.SIGKILL]
signal.signal(signal.SIGINT, signal.default_int_handler)

def count(event, given):
    if event in EVENTS or (event == "open" and given[1] and "w" in str(given[1])):
        stop[0] -= 1
        if stop[0] == 0:
            os.kill(os.getpid(), stop[1])

def make():
    if kind == "file":
        with output.make_file(output.resolve(place / "deep" / "o", folder=False)) as path:
            path.write_text("graph")
            path.with_name("o.data").write_text("weights")
    else:
        with output.make_folder(output.resolve(place / "deep" / "o")) as folder:
            for name in ("one", "two"):
                (folder / name).write_text(name)

def visible():
    found = [path for path in place.rglob("*") if path.is_file() and ".o-" not in str(path.relative_to(place))]
    return sorted(str(path.relative_to(place)) for path in found)

sys.addaudithook(count)
place.mkdir()
make()
whole, seen = visible(), []
for sign in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
    for number in range(1, 200):
        shutil.rmtree(place)
        place.mkdir()
        child = os.fork()
        if not child:
            stop[:] = number, sign
            try:
                make()
            except KeyboardInterrupt:
                os._exit(130)
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        there = visible()
        hidden = len([path for path in place.rglob(".o-*")])
        if kind == "file" and there == ["deep/o.data"]:  # a kill between the two; alone they are no graph
            (place / "deep" / "o.data").unlink()
            there = []
        if not there:
            make()
        after = visible() == whole and (bool(there) or not list(place.rglob(".o-*")))
        seen.append([sign.name, number, ended, there in ([], whole), hidden, after])
        if not ended:
            break
print(json.dumps(seen))
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_export_that_is_stopped_at_any_moment(kind: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", STOPPED_EVERYWHERE, str(tmp_path / "place"), kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert {sign for sign, *_ in seen} == {"SIGKILL", "SIGTERM", "SIGINT"}
    assert max(hidden for *_, hidden, _ in seen) == 1  # a kill leaves a hidden folder
    for sign, number, ended, whole, hidden, after in seen:
        assert whole, (sign, number)
        assert after, (sign, number)
        assert hidden == 0 or sign != "SIGINT", number
        assert ended in {"SIGINT": (0, 130), "SIGKILL": (0, -9), "SIGTERM": (0, -15)}[sign], number


def test_what_a_killed_export_left_is_cleared_unless_its_writer_lives(tmp_path: Path, finished_run: Path) -> None:
    (tmp_path / ".b-sharpzo-abcd1234").mkdir()
    (tmp_path / ".b-sharpzo-abcd1234" / "classifier.json").touch()
    (tmp_path / ".b-mine").mkdir()
    with output.make_folder(tmp_path / "b"):
        (alive,) = tmp_path.glob(".b-sharpzo-*")  # the other is gone
        assert main.run(["export", str(finished_run), "--to", "bundle", "--output", str(tmp_path / "b")]) == 0
        assert alive.is_dir()
        (tmp_path / "b").rename(tmp_path / "kept")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".b-mine", "b", "kept"]


@pytest.mark.parametrize("to", ["onnx", "web", "coreml"])
def test_an_error_of_the_disk_in_a_writer_is_one_line(
    to: str, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    pytest.importorskip("coremltools" if to == "coreml" else "onnx")
    from sharpzo_mlx.exporting import onnx_model, web_runtime

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    def fail_as_coremltools(*_: Any, **__: Any) -> None:
        raise RuntimeError("filesystem error: cannot copy: Input/output error [/x] [/y]")

    (tmp_path / "runtime").mkdir()
    for name in web_runtime.FILES:
        (tmp_path / "runtime" / name).touch()
    words = ["--runtime", str(tmp_path / "runtime")] if to == "web" else []
    if to == "coreml":
        from sharpzo_mlx.exporting import coreml_tools

        monkeypatch.setattr(coreml_tools.ct, "convert", fail_as_coremltools)
    else:
        monkeypatch.setattr(onnx_model, "write_onnx", fail)
    place = tmp_path / "new" / ("x.mlpackage" if to == "coreml" else "x")
    line = refused("export", finished_run, "--to", to, "--output", place, *words)
    assert ("make space on its disk" if to == "coreml" else "cannot be written (no space left on device)") in line
    assert [path.name for path in tmp_path.iterdir()] == ["runtime"]
    assert sz.Run.load(finished_run).finished
