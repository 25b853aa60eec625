"""A stranger's run on the hub: one line that names the run and the field, and no file of this machine is looked at."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_stand_in import Repository, StandIn, serve

import sharpzo_mlx as sz
from sharpzo_mlx.evaluation.overlap import images_used_by

huggingface_hub = pytest.importorskip("huggingface_hub")
Refused = Callable[..., str]
Files = dict[str, bytes]
NAME = "ann/pets"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """The stand-in, reached through the hub's library in this process, whose cache is a folder of the test."""
    with serve() as stand_in:

        def download(name: str, *, revision: str, allow_patterns: list[str]) -> str:
            folder = tmp_path / "hf" / revision
            folder.mkdir(parents=True)
            for file in allow_patterns:
                (folder / file).write_bytes(stand_in.repositories[name].files[file])
            return str(folder)

        def model_info(_: Any, name: str, **__: Any) -> Any:
            status, info = stand_in.answer("GET", f"/api/models/{name}", b"")
            assert status == 200
            return huggingface_hub.hf_api.ModelInfo(**info)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
        monkeypatch.chdir(tmp_path)
        yield stand_in


@pytest.fixture
def good(finished_run: Path) -> Files:
    return {name: (finished_run / name).read_bytes() for name in ("run.json", "prompt.safetensors")}


def publish(hub: StandIn, files: Files) -> None:
    hub.repositories.setdefault(NAME, Repository(private=False)).commits.append(files)


def change_record(changes: dict[str, Any]) -> Callable[[Files], Files]:
    def change(files: Files) -> Files:
        record = json.loads(files["run.json"])
        for path, value in changes.items():
            *groups, last = path.split(".")
            group = record
            for one in groups:
                group = group[one]
            group[last] = value
        return files | {"run.json": json.dumps(record).encode()}

    return change


def change_prompt(name: str, **fields: Any) -> Callable[[Files], Files]:
    """Change what the header says of one array."""

    def change(files: Files) -> Files:
        content = files["prompt.safetensors"]
        end = 8 + struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8:end])
        header[name] = {**header.get(name, {}), **fields}
        words = json.dumps(header).encode()
        return files | {"prompt.safetensors": struct.pack("<Q", len(words)) + words + content[end:]}

    return change


def with_record(content: bytes) -> Callable[[Files], Files]:
    return lambda files: files | {"run.json": content}


TERABYTE = {"dtype": "F32", "shape": [1 << 38], "data_offsets": [0, 1 << 40]}
HOSTILE: list[tuple[Callable[[Files], Files], str]] = [
    (change_record({"format": 99}), "run.json: written by another version of sharpzo-mlx; ask who made it"),
    (change_record({"format": 10**400}), "run.json: damaged (no JSON (1000"),
    (change_record({"status": "running"}), "a run that is not finished; ask who made it"),
    (change_record({"shots": -1}), "run.json: damaged (shots is not at least 0); ask who made it"),
    (change_record({"shots": 10**18}), "run.json: damaged (shots is not at most 1000000000000000); ask who made it"),
    (change_record({"class_names": ["x" * 10**6, "b", "c"]}), "run.json: damaged (class_names[0] is longer than"),
    (change_record({"class_names": ["\x1b[31mcat\nerror: x", "b", "c"]}), "prompt.safetensors: of other classes than"),
    (change_record({"class_folders": ["a\0b", "b", "c"]}), "run.json: damaged (class_folders[0] has characters"),
    (change_record({"config.space.dimension": 10**12}), "run.json: damaged (config: space.dimension"),
    (change_record({"model.source": "a/b; rm -rf ~"}), "run.json: damaged (model.source has characters"),
    (change_record({"images.train": [["a.png", 10**14]]}), "run.json: damaged (images.train[0] has label"),
    (with_record(b"["), "run.json: damaged ("),
    (with_record(b"[" * 100_000), "run.json: damaged ("),
    (with_record(b"\xff\xfe"), "run.json: damaged ("),
    (with_record(b"null"), "run.json: damaged (the content is not an object); ask who made it"),
    (change_prompt("w", shape=[1 << 20, 1 << 20]), "prompt.safetensors: no readable prompt here; ask who made it"),
    (change_prompt("more", **TERABYTE), "prompt.safetensors: no readable prompt here; ask who made it"),
    (change_prompt("__metadata__", logit_scale="\x1b[31m"), "prompt.safetensors: damaged (logit_scale "),
    (lambda files: files | {"prompt.safetensors": b"\xff" * 100}, "prompt.safetensors: no readable prompt here"),
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_a_hostile_run_is_one_line(
    number: int, hub: StandIn, good: Files, photos: Path, tmp_path: Path, refused: Refused
) -> None:
    change, expected = HOSTILE[number]
    publish(hub, change(good))
    lines = [refused("predict", NAME, photos / "cat" / "0.png")]
    publish(hub, change(good))
    lines.append(refused("evaluate", NAME, photos))
    for line in lines:
        assert line.startswith(f"error: {NAME}: {expected}")
        assert line.isprintable()
        assert len(line) < 400
        assert "rm -rf" not in line
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_images_that_it_names_are_none_of_this_machine(
    hub: StandIn, good: Files, photos: Path, finished_run: Path
) -> None:
    publish(hub, good)  # which names the folder and images of this machine
    run = sz.load_run(NAME)
    paths = sorted(photos.rglob("*.png"))
    assert images_used_by(sz.Run.load(finished_run)).count(paths) > 0
    assert images_used_by(run).count(paths) == 0
    assert str(photos) not in run.to_text()
    assert ".png" not in run.to_text()
    assert [label for _, label in run.record.images.labelled()] == [
        label for _, label in sz.Run.load(finished_run).record.images.labelled()
    ]


def test_a_file_that_is_too_large_is_not_downloaded(hub: StandIn, good: Files, tmp_path: Path) -> None:
    publish(hub, good)
    hub.sizes["prompt.safetensors"] = 3 << 30
    with pytest.raises(sz.UserError, match=r"prompt.safetensors takes 3072 MiB, more than any run's; not downloaded"):
        sz.load_run(NAME)
    assert list(tmp_path.iterdir()) == []
