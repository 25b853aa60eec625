"""The output folder of a conversion: whole or not at all, and never over something that is not ours."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from click.testing import CliRunner

from sharpzo_mlx.cli.convert_command import convert_command
from sharpzo_mlx.clip.checkpoint import load_config
from sharpzo_mlx.convert import DTYPES, conversion, convert
from sharpzo_mlx.convert.quantisation import BITS, GROUP_SIZES
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.files import default_model_folder, models_folder

FILES = ["README.md", "config.json", "model.safetensors", "tokenizer.json"]


@pytest.fixture
def checkpoint(tiny_model: Path, tmp_path: Path) -> Path:
    """A model folder of ours that may be changed; it is a checkpoint as good as any."""
    return shutil.copytree(tiny_model, tmp_path / "clip")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_permissions_follow_the_umask(checkpoint: Path, tmp_path: Path) -> None:
    folder = convert(checkpoint, tmp_path / "m").folder
    mask = os.umask(0)
    os.umask(mask)
    assert folder.stat().st_mode & 0o777 == 0o777 & ~mask


@pytest.mark.parametrize("spelling", [".", "../here"])
def test_the_current_folder_is_not_replaced(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match="is the current folder; choose another --output, such as"):
        convert(checkpoint, spelling)
    assert list(Path.cwd().iterdir()) == []


def test_existing_output_is_replaced_only_with_force(checkpoint: Path, tmp_path: Path) -> None:
    folder = convert(checkpoint, tmp_path / "m").folder
    before = contents(folder)
    with pytest.raises(UserError, match="--force"):
        convert(checkpoint, folder, dtype="float16")
    assert contents(folder) == before
    convert(checkpoint, folder, dtype="float16", force=True)
    assert load_config(folder) == load_config(convert(checkpoint, tmp_path / "n").folder)
    assert contents(folder)["model.safetensors"] != before["model.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip", "m", "n"]


def test_in_place_with_force(checkpoint: Path, tmp_path: Path) -> None:
    folder = convert(checkpoint, tmp_path / "m").folder
    before = contents(folder)
    assert contents(convert(folder, folder, force=True).folder) == before


@pytest.mark.parametrize("foreign", ["photos", "checkpoint"])
def test_a_folder_that_is_not_ours_is_never_replaced(checkpoint: Path, tmp_path: Path, foreign: str) -> None:
    folder = convert(checkpoint, tmp_path / "m").folder
    if foreign == "photos":
        (folder / "holiday.jpg").write_text("precious")
    else:  # Hugging Face's files have the names of ours
        weights = mx.load(str(checkpoint / "model.safetensors"))
        assert isinstance(weights, dict)
        mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "pt"})
    before = contents(folder)
    with pytest.raises(UserError, match="not just a model folder"):
        convert(checkpoint, folder, force=True)
    assert contents(folder) == before


def test_an_empty_folder_may_be_filled(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    assert sorted(contents(convert(checkpoint, tmp_path / "m").folder)) == FILES


@pytest.mark.parametrize("existing", [False, True])
def test_ctrl_c_leaves_what_was_there(
    checkpoint: Path, tmp_path: Path, existing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(convert(checkpoint, tmp_path / "m").folder) if existing else {}

    def interrupted(folder: Path, *_: Any) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(conversion, "save_model", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(checkpoint, tmp_path / "m", force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == (["clip", "m"] if existing else ["clip"])
    assert not existing or contents(tmp_path / "m") == before


def test_full_disk_is_one_line_and_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    program = f"""
import resource
from sharpzo_mlx.convert import convert
from sharpzo_mlx.errors import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, {resource.RLIM_INFINITY}))
try:
    convert({str(checkpoint)!r}, {str(tmp_path / "m")!r})
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert str(tmp_path / "m") in done.stdout, done.stderr
    assert done.stdout.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["clip"]


def test_default_outputs(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkpoint)
    assert convert(".").folder == Path("clip-mlx")
    assert (checkpoint / "clip-mlx" / "config.json").is_file()
    monkeypatch.setattr(conversion, "DEFAULT_MODEL", str(checkpoint))
    assert convert().folder == default_model_folder()


def test_command(checkpoint: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    output = str(tmp_path / "m n")
    said = runner.invoke(convert_command, [str(checkpoint), "--output", output]).output
    assert f"{checkpoint} -> {output}\n" in said
    assert said.endswith(f"next: sharpzo-mlx tune DATASET --model '{output}'\n")
    options = ["--output", output, "--force", "--dtype", "float16", "--json"]
    record = json.loads(runner.invoke(convert_command, [str(checkpoint), *options]).output)
    assert record["folder"] == output
    assert record["dtype"] == "float16"
    assert record["bytes_after"] == (Path(output) / "model.safetensors").stat().st_size
    refused = runner.invoke(convert_command, [str(checkpoint), "--output", output])
    assert isinstance(refused.exception, UserError)


def test_the_commands_choices_are_those_of_the_function() -> None:
    choices = {option.name: getattr(option.type, "choices", None) for option in convert_command.params}
    assert choices["dtype"] == tuple(DTYPES)
    assert choices["quantize"] == tuple(map(str, BITS))
    assert {int(size) for size in choices["group_size"] or ()} == set(GROUP_SIZES)


def test_a_name_has_its_place_in_the_cache() -> None:
    assert conversion.default_output("ViT-B/16") == default_model_folder()
    assert conversion.default_output("owner/clip") == models_folder() / "owner--clip"


def test_a_description_given_for_weights_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="describes weights, but holds none; give its folder"):
        convert(checkpoint / "config.json", tmp_path / "m")
