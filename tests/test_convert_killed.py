"""A conversion that is killed at any moment: the old folder or the new one is there, and the next one clears up."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from damaged_models import copy

from sharpzo_mlx.clip.checkpoint import WEIGHTS, fingerprint
from sharpzo_mlx.convert import convert, output
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.runtime.renames import exchange

# one process forks a child for every moment, for the import takes longer than all else; nothing of MLX runs in it
KILLED_EVERYWHERE = """
import json, os, shutil, signal, sys
from pathlib import Path
from sharpzo_mlx.clip.checkpoint import CONFIG
from sharpzo_mlx.convert import output

place, old, new, swaps = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4] == "yes"
EVENTS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "shutil.rmtree", "ctypes.call"}
left = [-1]

def count(event, given):
    if event in EVENTS or (event == "open" and given[1] and "w" in str(given[1])):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

def make():
    with output.fill(output.resolve(place / "o", force=True), force=True) as folder:
        for path in sorted(new.iterdir(), key=lambda path: path.name == CONFIG):
            (folder / path.name).write_bytes(path.read_bytes())

plain = output.exchange
def exchange(one, other):
    count("ctypes.call", ())
    done = plain(one, other) if swaps else False
    count("ctypes.call", ())
    return done

output.exchange = exchange
sys.addaudithook(count)
seen = []
for number in range(1, 200):
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(old, place / "o")
    child = os.fork()
    if not child:
        left[0] = number
        make()
        os._exit(0)
    killed = os.waitpid(child, 0)[1] != 0
    there = (place / "o" / CONFIG).is_file() and (place / "o" / "model.safetensors").read_bytes()
    which = "old" if there == (old / "model.safetensors").read_bytes() else "new" if there else "none"
    hidden = len([name for name in os.listdir(place) if name != "o"])
    output.resolve(place / "o", force=True)
    back = (place / "o" / "model.safetensors").read_bytes() != b"" and sorted(os.listdir(place)) == ["o"]
    make()
    after = (place / "o" / "model.safetensors").read_bytes() == (new / "model.safetensors").read_bytes()
    seen.append([which, hidden, back, after, sorted(os.listdir(place)) == ["o"]])
    if not killed:
        break
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def models(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models that can be told apart."""
    folder = tmp_path_factory.mktemp("models")
    return copy(tiny_model, folder / "old"), convert(tiny_model, folder / "new", dtype="float16").folder


@pytest.mark.parametrize("swaps", ["yes", "no"])
def test_killed_at_every_moment(models: tuple[Path, Path], tmp_path: Path, swaps: str) -> None:
    command = [sys.executable, "-c", KILLED_EVERYWHERE, str(tmp_path / "place"), *map(str, models), swaps]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert len(seen) > 10
    places = {which for which, *_ in seen}
    assert {"old", "new"} <= places
    assert ("none" in places) == (swaps == "no")  # only where the disk cannot exchange, and then it is put back
    assert any(hidden for _, hidden, *_ in seen)
    assert all(back and after and alone for _, _, back, after, alone in seen), seen


def test_two_folders_are_exchanged_in_one_step(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    if exchange(tmp_path / "a", tmp_path / "b"):  # most disks can
        assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
        assert [path.name for path in (tmp_path / "b").iterdir()] == ["a"]
    with pytest.raises(FileNotFoundError, match="No such file"):
        exchange(tmp_path / "a", tmp_path / "absent")


def test_macos_has_another_name_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def swap(*given: Any) -> int:
        calls.append(given)
        return 0

    monkeypatch.setattr(sys, "platform", "darwin")
    library = type("Library", (), {"renamex_np": staticmethod(swap)})
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: library)
    assert exchange(tmp_path / "a", tmp_path / "b")
    (first, second, flag) = calls[0]
    assert (first, second, flag.value) == (os.fsencode(tmp_path / "a"), os.fsencode(tmp_path / "b"), 2)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())  # a system without it
    assert not exchange(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_disk_that_cannot_exchange_moves_the_old_folder_aside(
    models: tuple[Path, Path], tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = type("Library", (), {"renameat2": staticmethod(lambda *_: -1), "renamex_np": staticmethod(lambda *_: -1)})
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: library)
    monkeypatch.setattr(ctypes, "get_errno", lambda: number)
    place = copy(models[0], tmp_path / "o")
    convert(models[1], place, force=True)
    assert fingerprint(place) == fingerprint(models[1])
    assert os.listdir(tmp_path) == ["o"]


def test_leftovers_are_put_back_or_removed_and_others_stay(
    models: tuple[Path, Path], tmp_path: Path, refused: Callable[..., str]
) -> None:
    copy(models[0], tmp_path / ".o-old-abcdefgh")
    (tmp_path / ".o-12345678").mkdir()
    (tmp_path / ".o-12345678" / ".model-own-x.safetensors").write_bytes(b"half")
    for name in (".o-mine_too", ".o-notes", ".other-12345678"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "holiday.jpg").write_text("precious")
    os.symlink(models[0], tmp_path / ".o-abcdefgh")
    living = copy(models[1], tmp_path / ".o-87654321")
    handle = os.open(living, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    assert "--force" in refused("convert", models[1], "--output", tmp_path / "o")
    os.close(handle)
    assert fingerprint(tmp_path / "o") == fingerprint(models[0])
    kept = {".o-mine_too", ".o-notes", ".other-12345678", ".o-abcdefgh", ".o-87654321", "o"}
    assert set(os.listdir(tmp_path)) == kept
    assert (models[0] / WEIGHTS).is_file()
    convert(models[1], tmp_path / "o", force=True)
    assert set(os.listdir(tmp_path)) == kept - {".o-87654321"}


def test_a_folder_that_came_meanwhile_is_not_replaced(models: tuple[Path, Path], tmp_path: Path) -> None:
    def make() -> None:
        with output.fill(output.resolve(tmp_path / "o", force=False)) as folder:
            for path in models[0].iterdir():
                (folder / path.name).write_bytes(path.read_bytes())
            (tmp_path / "o").mkdir()
            (tmp_path / "o" / "holiday.jpg").write_text("precious")

    with pytest.raises(UserError, match="another folder has come there meanwhile"):
        make()
    assert os.listdir(tmp_path) == ["o"]
    assert (tmp_path / "o" / "holiday.jpg").read_text() == "precious"


@pytest.mark.parametrize("force", [False, True])
def test_of_two_conversions_the_sooner_stays_unless_forced(
    force: bool, models: tuple[Path, Path], tmp_path: Path
) -> None:
    def make(model: Path, *, meanwhile: Path | None = None) -> None:
        with output.fill(output.resolve(tmp_path / "o", force=force), force=force) as folder:
            for path in model.iterdir():
                (folder / path.name).write_bytes(path.read_bytes())
            if meanwhile is not None:
                make(meanwhile)

    with nullcontext() if force else pytest.raises(UserError, match="another folder has come there meanwhile"):
        make(models[0], meanwhile=models[1])
    assert os.listdir(tmp_path) == ["o"]
    assert fingerprint(tmp_path / "o") == fingerprint(models[0 if force else 1])
