"""Models by name: found from any folder once converted, listed, and removed from the cache alone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hf_checkpoint import write_checkpoint

from sharpzo_mlx.cli.convert_command import convert_command, summary
from sharpzo_mlx.cli.models import models_command
from sharpzo_mlx.clip import catalog
from sharpzo_mlx.clip.handle import load
from sharpzo_mlx.convert import convert
from sharpzo_mlx.convert.stored import find_stored, remove_stored
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.files import cache_folder, default_model_folder, models_folder
from sharpzo_mlx.hub import download as hub


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the hub give one small checkpoint under every name; the command is called from another folder."""
    checkpoint = write_checkpoint(tmp_path / "published")
    monkeypatch.setattr(hub, "fetch", lambda name, choose, *, progress: checkpoint)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return checkpoint


def call(*words: str) -> Result:
    return CliRunner().invoke(models_command, list(words))


def listed() -> dict[str, dict[str, object]]:
    record = json.loads(call("--json").output)
    assert record["folder"] == str(models_folder())
    return {model["name"]: model for model in record["models"]}


@pytest.mark.parametrize("name", ["RN50", "own/tiny", "siglip2-base", "timm/resnet101_clip.openai", "ViT-L/14@336px"])
def test_a_converted_model_is_found_by_its_name_from_anywhere(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    report = convert(name)
    assert report.folder == models_folder() / catalog.resolve(name).replace("/", "--")
    assert summary(report).endswith(f"--model {name}")
    assert list(Path.cwd().iterdir()) == []
    monkeypatch.chdir(tmp_path)
    for spelling in (name, catalog.resolve(name)):
        assert load(spelling).folder == report.folder
    assert load(name.lower() if name == "RN50" else Path(name)).folder == report.folder


def test_a_folder_comes_before_a_name(published: Path, tiny_model: Path) -> None:
    convert("RN50")
    shutil.copytree(tiny_model, "RN50")
    assert load("RN50").folder == Path("RN50")


def test_the_default_model_is_found_by_its_name_too(published: Path) -> None:
    assert convert("openai/clip-vit-base-patch16").folder == default_model_folder()
    assert load("ViT-B/16").folder == load().folder == default_model_folder()


def test_a_model_that_is_here_is_not_converted_again_unasked(published: Path) -> None:
    folder = convert("RN50").folder
    written = (folder / "model.safetensors").stat().st_mtime_ns
    with pytest.raises(UserError, match=r"RN50: here already .*--model RN50, or make it again with --force"):
        convert("RN50")
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert convert("RN50", force=True).folder == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns > written


def test_a_known_model_that_is_not_here_says_how_to_get_it() -> None:
    with pytest.raises(
        UserError, match=r"siglip2-base: not here yet; .*convert siglip2-base \(downloads google/.*, about 1\.50 GB\)"
    ):
        load("siglip2-base")


NEAREST = {"siglip2-bse": "siglip2-base", "mobileclip2s2": "mobileclip2-s2", "RN-50": "RN50", "vitb16": "ViT-B/16"}


@pytest.mark.parametrize("name", NEAREST)
def test_an_unknown_name_gets_the_nearest_ones(name: str, tmp_path: Path) -> None:
    for attempt in (lambda: load(name), lambda: convert(name, tmp_path / "m")):
        with pytest.raises(UserError, match=rf"{name}: no such .*nearest are .*\b{NEAREST[name]}\b") as caught:
            attempt()
        assert "\n" not in str(caught.value)


def test_a_name_like_none_says_where_names_are_listed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"qqqqqq: no such file or folder.*`sharpzo-mlx models`"):
        convert("qqqqqq", tmp_path / "m")


@pytest.mark.parametrize("known", catalog.KNOWN, ids=lambda known: known.name)
def test_every_entry_is_found_by_all_its_names(known: catalog.Known) -> None:
    assert catalog.HUB_NAME.fullmatch(known.name)
    assert catalog.resolve(known.name) == known.name
    assert known.alias == "" or catalog.resolve(known.alias) == known.name
    assert catalog.name_of(catalog.place(known.name)) == known.name
    assert known.files


def test_names_are_distinct() -> None:
    names = [known.name for known in catalog.KNOWN]
    aliases = [known.alias.lower() for known in catalog.KNOWN if known.alias]
    assert len(set(names)) == len(names)
    assert len(set(aliases)) == len(aliases)


def test_the_lists(published: Path) -> None:
    assert not any(model["here"] for model in listed().values())
    assert "none yet" in call().output
    convert("RN50")
    convert("own/tiny")
    rows = listed()
    assert {name for name, model in rows.items() if model["here"]} == {"timm/resnet50_clip.openai", "own/tiny"}
    own = rows["own/tiny"]
    assert (own["licence"], own["folder"]) == ("apache-2.0", str(models_folder() / "own--tiny"))
    assert own["bytes"] == sum(path.stat().st_size for path in (models_folder() / "own--tiny").iterdir())
    assert rows["google/siglip2-base-patch16-224"]["download_bytes"] == 4 * 375_187_970
    shown = call().output
    assert "own/tiny" in shown
    assert "own--tiny/" in shown
    assert max(map(len, shown.replace(str(models_folder()), "").splitlines())) <= 80


def test_what_is_no_model_is_not_listed(published: Path) -> None:
    convert("own/tiny")
    for name in (".own--tiny-abcdefgh", "half--done"):
        (models_folder() / name).mkdir()
    (models_folder() / "notes.txt").write_text("mine")
    assert [name for name, model in listed().items() if model["here"]] == ["own/tiny"]


@pytest.mark.parametrize("name", ["RN50", "timm/resnet50_clip.openai", "timm--resnet50_clip.openai"])
def test_removing_a_model(published: Path, name: str) -> None:
    folder = convert("RN50").folder
    convert("own/tiny")
    asked = call("remove", name)
    assert isinstance(asked.exception, UserError)
    assert "add --yes" in str(asked.exception)
    assert folder.is_dir()
    assert call("remove", name, "--yes").output.startswith("removed timm/resnet50_clip.openai (")
    assert not folder.exists()
    assert [name for name, model in listed().items() if model["here"]] == ["own/tiny"]
    assert published.is_dir()
    with pytest.raises(UserError, match="not here yet"):
        load("RN50")


@pytest.mark.parametrize("name", ["RN50", "..", ".", "../models", "/", "", "own", "absent/name"])
def test_nothing_else_is_ever_removed(published: Path, name: str) -> None:
    convert("own/tiny")
    before = sorted(path for path in cache_folder().rglob("*"))
    refused = call("remove", name, "--yes")
    assert isinstance(refused.exception, UserError), refused.output
    assert sorted(path for path in cache_folder().rglob("*")) == before


def test_a_folder_with_other_files_or_behind_a_link_stays(published: Path, tmp_path: Path) -> None:
    folder = convert("own/tiny").folder
    (folder / "notes.txt").write_text("mine")
    refused = call("remove", "own/tiny", "--yes").exception
    assert isinstance(refused, UserError)
    assert "'notes.txt'" in str(refused)
    (folder / "notes.txt").unlink()
    moved = Path(shutil.move(folder, tmp_path / "moved"))
    os.symlink(moved, folder)
    assert isinstance(call("remove", "own/tiny", "--yes").exception, UserError)
    assert (moved / "model.safetensors").is_file()


def test_the_options_do_not_go_together(published: Path) -> None:
    assert call("--json", "remove", "own/tiny", "--yes").exit_code == 2


def test_the_option_arch_of_convert(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "clip")
    options = [str(checkpoint), "--output", str(tmp_path / "m"), "--arch", "ViT-B32"]
    refused = CliRunner().invoke(convert_command, options).exception
    assert isinstance(refused, UserError)
    assert "the nearest are ViT-B-32" in str(refused)
    assert CliRunner().invoke(convert_command, [*options[:-1], "x", "--activation", "relu"]).exit_code == 2


@pytest.mark.parametrize("name", ["apple/MobileCLIP-S0", "mobileclip-s0"])
def test_the_first_mobileclip_s0_is_refused_with_the_one_to_use(name: str) -> None:
    with pytest.raises(UserError, match=f"^{name}: its text tower .* use MobileCLIP2-S0"):
        load(name)


def test_a_removal_that_is_stopped_leaves_no_half_model(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left has a hidden name, and the next conversion to the same place removes it."""

    def stopped(folder: Path) -> None:
        (Path(folder) / "config.json").unlink()
        raise KeyboardInterrupt

    convert("own/tiny")
    model = find_stored("own/tiny")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", stopped)
        with pytest.raises(KeyboardInterrupt):
            remove_stored(model)
    assert [path.name[:10] for path in models_folder().iterdir()] == [".own--tiny"]
    assert not listed().get("own/tiny")
    folder = convert("own/tiny").folder
    assert list(models_folder().iterdir()) == [folder]


def test_a_removal_that_the_disk_refuses_leaves_the_model(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    folder = convert("own/tiny").folder
    model = find_stored("own/tiny")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refused)
        with pytest.raises(UserError, match=r"cannot be removed \(permission denied\)"):
            remove_stored(model)
    assert list(models_folder().iterdir()) == [folder]
    assert load("own/tiny").folder == folder


@pytest.mark.parametrize("kind", ["read-only", "file"])
def test_a_cache_that_cannot_be_written_is_found_before_a_download(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_only: Callable[[Path], None]
) -> None:
    def fetched(*_: object, **__: object) -> Path:
        raise AssertionError("downloaded")

    monkeypatch.setattr(hub, "fetch", fetched)
    place = tmp_path / "cache"
    monkeypatch.setenv("SHARPZO_MLX_CACHE", str(place))
    if kind == "file":
        place.write_text("mine")
    else:
        place.mkdir()
        read_only(place)
    with pytest.raises(
        UserError, match=r"own--tiny: cannot be written \(.*cache: (not a directory|permission denied)\)"
    ):
        convert("own/tiny")
    assert not place.is_dir() or not list(place.iterdir())
