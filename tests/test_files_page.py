"""What the page docs/reference/files.md says of folders and files, held against the folders and files themselves."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import cast

import mlx.core as mx
import numpy as np
import pytest
from hf_checkpoint import write_checkpoint
from plain_logits import read_file
from tiny_settings import SMALL

import sharpzo_mlx as sz
from sharpzo_mlx.cli import main
from sharpzo_mlx.convert import convert
from sharpzo_mlx.datasets.coop import read_split_file
from sharpzo_mlx.datasets.folder import read_folder
from sharpzo_mlx.datasets.mapping import apply_mapping
from sharpzo_mlx.datasets.names import read_names
from sharpzo_mlx.datasets.templates import read_templates
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.runs.run import Run
from sharpzo_mlx.tuning import checkpointing
from sharpzo_mlx.tuning.pipeline import tune_steps
from sharpzo_mlx.tuning.search import TuneStep

PAGE = (Path(__file__).parents[1] / "docs" / "reference" / "files.md").read_text(encoding="utf-8")


def table(heading: str, number: int = 0) -> dict[str, str]:
    """Return the first two columns of a table under a heading; a row of several names is several entries."""
    section = re.split(r"^#+ ", PAGE.partition(f"# {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    rows = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)[number].splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]
    return {name: words for first, words, *_ in cells for name in re.findall(r"`([^`]+)`", first)}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run for one test."""
    return shutil.copytree(finished_run, tmp_path / "run")


def test_a_run_folder_holds_the_files_of_the_table(
    run: Path, photos: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documented = set(table("A run folder"))
    assert main.run(["evaluate", str(run), str(photos)]) == 0
    assert main.run(["report", str(run), "--no-landscape"]) == 0
    of_the_search = {"checkpoint.safetensors", "checkpoint-before.safetensors"}
    assert names(run) == documented - of_the_search - {"history/N/"}
    monkeypatch.setattr(checkpointing, "CHECKPOINT_SECONDS", 0)
    events = tune_steps(sz.load(tiny_model), photos, sz.TuneConfig().with_settings(SMALL), output=tmp_path / "part")
    steps = (event for event in events if isinstance(event, TuneStep))
    for _ in range(6):
        next(steps)
    events.close()  # type: ignore[attr-defined]
    assert of_the_search <= names(tmp_path / "part") <= documented
    assert main.run(["add", str(run), "--class", "lynx"]) == 0
    assert names(run) == documented - of_the_search - {"history/N/"} | {"history"}


def test_a_prompt_holds_the_arrays_and_texts_of_the_tables(run: Path) -> None:
    arrays, words = read_file(run)
    tables = table("Using the classifier elsewhere"), table("Using the classifier elsewhere", 1)
    assert set(arrays) == set(tables[0])
    assert set(tables[1]) - {"logit_bias"} <= set(words)
    sizes = {"K": 3, "D": 24, "d": 8}
    for name, shape in tables[0].items():
        known = [sizes.get(letter) for letter in re.findall(r"\[([^\]]*)\]", shape)[0].split(", ")]
        if name != "head_bias" and None not in known:
            assert list(arrays[name].shape) == known, name
    for name in ("head_distances", "head_scores"):
        assert (np.diff(arrays[name]) >= 0).all()
    np.testing.assert_allclose(np.linalg.norm(arrays["zero_shot_features"], axis=1), 1, rtol=1e-5)
    loaded = mx.load(str(run / "prompt.safetensors"))
    assert isinstance(loaded, dict)
    assert {array.dtype for array in loaded.values()} == {mx.float32}


def test_a_run_without_a_head_has_none_of_the_names_of_one(tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    config = sz.TuneConfig(head="none").with_settings(SMALL)
    arrays, words = read_file(sz.tune(sz.load(tiny_model), photos, config, output=tmp_path / "r").folder)
    of_a_head = [name for name in (*arrays, *words) if re.search("head|guard|share", name)]
    assert of_a_head == []


def test_what_evaluate_keeps_has_the_fields_of_the_table(
    run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documented = set(table("What `evaluate` keeps"))
    capsys.readouterr()
    assert main.run(["evaluate", str(run), str(photos), "--foreign", str(photos / "cat"), "--json"]) == 0
    printed = capsys.readouterr().out
    kept = json.loads((run / "evaluations.json").read_text())
    assert len(kept) == 2
    own, foreign = sorted(kept, key=lambda one: "foreign" in one)
    assert documented <= set(own)
    assert 0 <= own["coverage"] <= 1
    named = {"foreign", "path", "images", "unreadable", "rejected", "stated_rejection", "opening", "auroc"}
    assert set(foreign) == named
    assert all(f"`{name}" in PAGE for name in named)
    assert foreign["foreign"] is True
    assert foreign in json.loads(printed)["foreign"]


def test_a_model_folder_holds_the_files_of_the_table(tmp_path: Path) -> None:
    once = convert(write_checkpoint(tmp_path / "hf"), tmp_path / "m").folder
    assert names(once) == set(table("A model folder"))
    _, metadata = cast("tuple[object, dict[str, str]]", mx.load(str(once / "model.safetensors"), return_metadata=True))
    assert metadata["format"] == "mlx"
    assert "fingerprint" in metadata
    again = convert(once, tmp_path / "again").folder
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert (again / name).read_bytes() == (once / name).read_bytes()


def test_the_cache_has_the_folders_of_the_page(tiny_model: Path, photos: Path) -> None:
    cache = Path(os.environ["SHARPZO_MLX_CACHE"])
    sz.load(tiny_model).encode_texts(["a cat"])
    sz.load(tiny_model).encode_images(sorted(photos.glob("*/*.png"))[:2])
    assert names(cache) <= {"features", "checked", "models"}
    assert [path.stat().st_size for path in (cache / "checked").iterdir()] == [0]
    sz.load(tiny_model).encode_texts(["a dog"])
    assert len(names(cache / "checked")) == 1


LISTS: dict[str, Callable[[Path, Path], object]] = {
    "classnames.txt": lambda file, _: read_names(file, ("cat", "dog")),
    "split_zhou_x.json": lambda file, _: read_split_file(file),
    "map.json": lambda file, photos: apply_mapping(read_folder(photos), file, ("cat", "dog"), ("cat", "dog")),
    "templates.txt": lambda file, _: read_templates(str(file)),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_are_regular_utf8_files_of_a_bounded_size(name: str, photos: Path, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(b"")
    most = 1 if name == "templates.txt" else 64
    os.truncate(file, (most << 20) + 1)  # takes no room on the disk
    with pytest.raises(UserError, match=rf"{name}: .*too large, over {most} MiB"):
        LISTS[name](file, photos)
    file.write_bytes(b"cat \xff\n")
    with pytest.raises(UserError, match=rf"{name}: .*not UTF-8"):
        LISTS[name](file, photos)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(UserError, match=rf"{name}: .*not a regular file"):
        LISTS[name](file, photos)


@pytest.mark.parametrize("name", ["run.json", "evaluations.json", "steps.jsonl"])
def test_json_of_a_run_is_at_most_64_mib(name: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / name).write_bytes(b"")
    os.truncate(run / name, (64 << 20) + 1)
    assert main.run(["report", str(run), "--no-landscape"]) == (2 if name == "run.json" else 0)
    said = capsys.readouterr().err
    assert str(run / name) in said
    assert "too large, over 64 MiB" in said


def test_a_file_of_templates_with_the_name_of_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small").write_text("# none\n\na drawing of a {}.\na drawing of a {}.\n")
    monkeypatch.chdir(tmp_path)
    assert read_templates("./small") == ("a drawing of a {}.",)
    assert len(read_templates("small")) == 7


def test_a_record_has_the_fields_of_the_page(run: Path) -> None:
    content = json.loads((run / "run.json").read_text())
    assert {"config", "versions", "images", "results", "model", "content"} <= set(content)
    assert {"val", "test", "test_text", "head"} <= set(content["results"])
    assert {"text", "image", "named", "words_kept"} <= set(content["results"]["head"])
    assert Run.load(run).record.to_json() == {name: content[name] for name in Run.load(run).record.to_json()}
