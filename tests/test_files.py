"""Files are whole or not there; the caches are where the documentation says."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from sharpzo_mlx import files


def test_text_and_bytes_are_written_exactly(tmp_path: Path) -> None:
    place = tmp_path / "new" / "folder" / "a.json"
    files.atomic_write(place, "größe\n")
    assert place.read_bytes() == "größe\n".encode()
    files.atomic_write(place, b"\x00\xff")
    assert place.read_bytes() == b"\x00\xff"


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    place = tmp_path / "a.bin"
    place.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        _break_off(place)
    assert place.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def _break_off(place: Path) -> None:
    with files.atomic_path(place) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt


def test_temporary_file_stands_beside_with_the_same_ending_and_is_hidden(tmp_path: Path) -> None:
    place = tmp_path / "model.safetensors"
    with files.atomic_path(place) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".")
        assert temporary.suffix == ".safetensors"
        assert not place.exists()
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.atomic_write(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SHARPZO_MLX_CACHE", str(tmp_path / "c"))
    assert files.cache_folder() == tmp_path / "c"
    assert files.default_model_folder() == tmp_path / "c" / "models" / "openai--clip-vit-base-patch16"
    monkeypatch.delenv("SHARPZO_MLX_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "darwin")
    assert files.cache_folder() == tmp_path / "Library" / "Caches" / "sharpzo-mlx"
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert files.cache_folder() == tmp_path / "x" / "sharpzo-mlx"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert files.cache_folder() == tmp_path / ".cache" / "sharpzo-mlx"


def test_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHARPZO_MLX_CACHE", "~/c")
    assert files.cache_folder() == tmp_path / "c"
