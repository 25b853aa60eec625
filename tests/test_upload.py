"""What `upload` packs, shows and refuses, before the hub is asked for anything."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import sharpzo_mlx as sz
from sharpzo_mlx.cli import main
from sharpzo_mlx.convert import mobileclip
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.hub.runs import is_name
from sharpzo_mlx.runs.run import Run
from sharpzo_mlx.sharing.cards import write_model_card, write_run_card
from sharpzo_mlx.sharing.licences import APPLE_NOTICE, check
from sharpzo_mlx.sharing.origin import Origin
from sharpzo_mlx.sharing.packing import Told, pack
from sharpzo_mlx.sharing.parcel import Kind
from sharpzo_mlx.sharing.privacy import find_leak

Refused = Callable[..., str]
LICENCE_TEXT = "Permission is hereby granted, to whom it may concern. " * 10


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the random model, whose card names neither base nor licence."""
    return shutil.copytree(tiny_model, tmp_path / "model")


@pytest.fixture
def licence_file(tmp_path: Path) -> Path:
    (tmp_path / "terms.txt").write_text(LICENCE_TEXT)
    return tmp_path / "terms.txt"


def test_the_plan_is_shown_and_nothing_is_sent(
    finished_run: Path, photos: Path, capsys: pytest.CaptureFixture[str], refused: Refused
) -> None:
    words = ["upload", str(finished_run), "--to", "ann/pets", "--base", "ViT-B/16"]
    assert main.run([*words, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "ann/pets (private), a run" in shown
    assert "base model: openai/clip-vit-base-patch16\nlicence: mit\n" in shown
    assert "classes, by name: barn owl, cat, dog\n" in shown
    assert "    sharpzo-mlx convert openai/clip-vit-base-patch16    # once\n" in shown
    assert shown.endswith("nothing was sent\n")
    assert all(len(line) <= 80 for line in shown.splitlines()[1:8])
    assert str(photos) not in shown
    capsys.readouterr()
    assert main.run(words) == 2  # nobody can be asked
    assert capsys.readouterr().err == "error: ann/pets: not sent, for nobody can be asked here; add --yes\n"


def test_what_would_be_sent_can_be_written_to_a_folder(
    finished_run: Path, tmp_path: Path, photos: Path, refused: Refused
) -> None:
    words = ["upload", str(finished_run), "--to", "ann/pets", "--output", str(tmp_path / "look")]
    assert main.run(words) == 0
    assert {path.name for path in (tmp_path / "look").iterdir()} == {"README.md", "run.json", "prompt.safetensors"}
    record = json.loads((tmp_path / "look" / "run.json").read_text())
    assert record["dataset"] == "not-sent"
    assert record["model"]["folder"] == ""
    assert "content" not in record
    before = Run.load(finished_run).record.images
    assert [label for _, label in record["images"]["train"]] == [label for _, label in before.train]
    assert Run.load(tmp_path / "look").results == Run.load(finished_run).results
    with pytest.raises(UserError, match=r"README\.md: is there already; name a new folder"):
        pack(finished_run, "ann/pets").write(tmp_path / "look")


def test_the_folder_of_templates_and_of_a_setting_is_not_sent(finished_run: Path, tmp_path: Path, photos: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    record["config"]["templates"] = str(tmp_path / "templates.txt")
    (run / "run.json").write_text(json.dumps(record))
    (sent,) = (item.content for item in pack(run, "ann/pets").items if item.name == "run.json")
    assert isinstance(sent, bytes)
    assert json.loads(sent)["config"]["templates"] is None
    record["config"]["template"] = f"a photo of a {{}} in {photos}"
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"run\.json: names .*, a folder of this machine; nothing is sent until"):
        pack(run, "ann/pets")


@pytest.mark.parametrize(
    ("text", "found"),
    [("see /home/ann/x", True), ("/home/ann", True), ("/home/anna", False), ("my/home/ann", False), ("x", False)],
)
def test_a_folder_is_found_whole(text: str, found: bool) -> None:
    assert (find_leak(text, ["/home/ann"]) is not None) == found


def test_a_model_needs_a_licence(model: Path, refused: Refused, licence_file: Path) -> None:
    line = refused("upload", model, "--to", "ann/clip", "--yes")
    assert (
        line == f"error: {model}: the licence of its weights is not known; ask their source, and say it with --licence"
    )
    assert pack(model, "ann/clip", told=Told(licence="mit")).licence == "mit"
    line = refused("upload", model, "--to", "ann/clip", "--licence", "other-terms")
    assert "its licence, other-terms, is none that is known to let it be passed on" in line
    parcel = pack(model, "ann/clip", told=Told(licence="other-terms", licence_file=licence_file))
    assert {item.name: item.content for item in parcel.items}["LICENSE"] == LICENCE_TEXT.encode()
    (model / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert "--licence mit: the model's card says apache-2.0" in refused(
        "upload", model, "--to", "a/b", "--licence", "mit"
    )


@pytest.mark.parametrize("kind", ["run", "model"])
def test_apples_licence_goes_along_or_nothing_goes(kind: Kind) -> None:
    with pytest.raises(UserError, match=r"m: Apple's MobileCLIP weights are for research only .*--licence-file FILE"):
        check("m", mobileclip.LICENCE, None, kind=kind)
    assert check("m", mobileclip.LICENCE, LICENCE_TEXT, kind=kind) == mobileclip.LICENCE
    card = write_model_card("a/m", Origin("o/m", "o/m", mobileclip.LICENCE), "float32", quantised=False)
    assert APPLE_NOTICE in card
    assert "license: apple-amlr\n" in card


def test_a_short_licence_file_is_refused(model: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "short.txt").write_text("MIT")
    assert "too short for a licence" in refused(
        "upload", model, "--to", "a/b", "--licence", "x", "--licence-file", tmp_path / "short.txt"
    )


@pytest.mark.parametrize("name", ["pets", "ann/", "a/b/c", "ann/../x", "-a/b", "ann/x.git", "a b/c", "a/" + "x" * 99])
def test_a_name_that_the_hub_refuses_is_refused(finished_run: Path, refused: Refused, name: str) -> None:
    assert "write OWNER/NAME" in refused("upload", finished_run, f"--to={name}")


def test_a_run_that_is_not_finished_or_of_another_model_is_refused(
    finished_run: Path, model: Path, tmp_path: Path, refused: Refused
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    text = (run / "run.json").read_text()
    (run / "run.json").write_text(text.replace('"finished"', '"interrupted"'))
    assert "not finished; continue it with `tune --resume`" in refused("upload", run, "--to", "a/b")
    (run / "run.json").write_text(text.replace('"fingerprint": "', '"fingerprint": "0'))
    assert "not the model that" in refused("upload", run, "--to", "a/b")
    assert "no such model" in refused("upload", tmp_path / "none", "--to", "a/b")
    assert "--model is for runs" in refused("upload", model, "--to", "a/b", "--model", model)


def test_damaged_weights_are_refused(model: Path, refused: Refused) -> None:
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 64
    (model / "model.safetensors").write_bytes(weights)
    assert "model.safetensors" in refused("upload", model, "--to", "a/b", "--licence", "mit")


def test_the_card_shows_names_as_code_and_how_the_model_is_made(finished_run: Path) -> None:
    run = Run.load(finished_run)
    names = ("<img src=x>", "# head\n---\nlicense: gpl", "a`b")
    run = replace(run, record=replace(run.record, class_names=names))
    origin = Origin("o/clip", "o/clip --dtype float16 --quantize 4", "mit")
    card = write_run_card("ann/pets", origin, run)
    assert "`<img src=x>`, `# head --- license: gpl`, `` a`b ``." in card
    assert "\n    sharpzo-mlx convert o/clip --dtype float16 --quantize 4    # once\n" in card
    assert card.count("---\n") == 2
    assert "base_model: o/clip\nbase_model_relation: adapter\n" in card
    assert "| test | " in card


def test_a_mistyped_path_is_never_asked_for_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    assert is_name("ann/pets")
    for path in ("runs/pets", "experiments/pets", "pets", "./ann/pets", "/ann/pets", "ann/pets/run", "../ann/pets"):
        assert not is_name(path)
    assert refused("predict", "runs/pets", tmp_path).startswith("error: runs/pets: no run here")


def test_another_model_under_the_name_is_refused_with_the_command(
    finished_run: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    pack(finished_run, "ann/pets", told=Told(base="owner/clip")).write(tmp_path / "copy")
    record = json.loads((tmp_path / "copy" / "run.json").read_text())
    record["model"] |= {"source": "owner/clip --dtype float16", "fingerprint": "0"}
    (tmp_path / "copy" / "run.json").write_text(json.dumps(record))
    image = tmp_path / "x.png"
    line = refused("predict", tmp_path / "copy", image)
    assert line.endswith("copy: its model is not here; make it once: sharpzo-mlx convert owner/clip --dtype float16")
    monkeypatch.setenv("SHARPZO_MLX_CACHE", str(tmp_path / "cache"))
    shutil.copytree(tiny_model, tmp_path / "cache" / "models" / "owner--clip")
    line = refused("predict", tmp_path / "copy", image)
    assert "convert owner/clip --dtype float16 --output FOLDER, then --model FOLDER" in line
    del record["model"]["source"]
    (tmp_path / "copy" / "run.json").write_text(json.dumps(record))
    assert "does not name its model; ask who made it" in refused("predict", tmp_path / "copy", image)


def test_what_was_added_to_a_run_is_sent_without_folders(finished_run: Path, tmp_path: Path, photos: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    record["images"]["added"] = [[str(photos / "cat" / "0.png"), 1]]
    record["version"] = {"number": 2, "latest": 2, "date": "2026-11-30 12:00", "folders": [str(photos)], "images": 1}
    (run / "run.json").write_text(json.dumps(record))
    pack(run, "ann/pets").write(tmp_path / "look")
    sent = json.loads((tmp_path / "look" / "run.json").read_text())
    assert sent["images"]["added"] == [["not-sent/1", 1]]
    assert "version" not in sent


def test_load_run_reads_a_folder(finished_run: Path) -> None:
    run = sz.load_run(finished_run)
    assert run.results == Run.load(finished_run).results
    assert run.name is None
