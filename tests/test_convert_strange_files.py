"""Files and folders that people hand in by mistake: each is named, with what to do, and nothing is written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest
from hf_checkpoint import CONFIG, contents, random_weights, save_safetensors, write_checkpoint

import sharpzo_mlx as sz
from sharpzo_mlx.convert import convert
from sharpzo_mlx.convert.file_kinds import describe_content
from sharpzo_mlx.convert.layout import files_to_download
from sharpzo_mlx.errors import UserError

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 598641023\n"
LONE = "beside it says which network these weights belong to; put it there, or name .*--arch"
Make = Callable[[Path], Path]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "clip")


def named(name: str, content: bytes) -> Make:
    """A file of a name and a content beside a configuration."""

    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def pointer(name: str) -> Make:
    def make(folder: Path) -> Path:
        (folder / name).write_text(POINTER)
        return folder

    return make


def moved(name: str) -> Make:
    """The weights under another name."""

    def make(folder: Path) -> Path:
        (folder / "model.safetensors").rename(folder / name)
        return folder / name

    return make


def only(name: str) -> Make:
    def make(folder: Path) -> Path:
        (folder / "model.safetensors").rename(folder / name)
        return folder

    return make


def alone(folder: Path) -> Path:
    (inner := folder / "inner").mkdir()
    return Path(shutil.copy(folder / "model.safetensors", inner / "x.safetensors"))


def broken_link(folder: Path) -> Path:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("../../blobs/0")
    return folder


def blob(folder: Path) -> Path:
    (folder / "blobs").mkdir()
    return (folder / "model.safetensors").rename(folder / "blobs" / ("a" * 64))


def in_the_hubs_cache(folder: Path) -> Path:
    (above := folder / "models--a--b" / "snapshots").mkdir(parents=True)
    write_checkpoint(above / "0123")
    return above.parent


def adapter(name: str) -> Make:
    def make(folder: Path) -> Path:
        (inner := folder / "lora").mkdir()
        save_safetensors({"lora_te_text_model.lora_down.weight": mx.ones((2, 2))}, inner / name)
        return inner

    return make


def packed(folder: Path) -> Path:
    described = {"quantization_config": {"quant_method": "bitsandbytes"}}
    (folder / "config.json").write_text(json.dumps(CONFIG | described))
    return folder


def parts(folder: Path) -> Path:
    """Shards without an index, of which one is missing."""
    write_shards(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    return folder


def one_part(folder: Path) -> Path:
    write_shards(folder)
    return folder / "model-00001-of-00002.safetensors"


def listed(name: str) -> Make:
    def make(folder: Path) -> Path:
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
        return folder

    return make


def marked(name: str) -> Make:
    """An empty folder but for one file, with a checkpoint of a text tower inside."""

    def make(folder: Path) -> Path:
        write_checkpoint(folder / "outer" / "text_encoder")
        (folder / "outer" / name).write_text("{}")
        return folder / "outer"

    return make


STRANGE: dict[str, tuple[Make, str]] = {
    "pointer": (pointer("model.safetensors"), r"model\.safetensors: it is a pointer of Git LFS.*`git lfs pull`"),
    "pointer, torch": (lambda folder: pointer("x.pt")(folder) / "x.pt", r"x\.pt: it is a pointer of Git LFS"),
    "pointer, words": (pointer("tokenizer.json"), r"tokenizer\.json: .*it is a pointer of Git LFS"),
    "pointer, config": (pointer("config.json"), r"config\.json: it is a pointer of Git LFS"),
    "empty": (named("ViT-B-16.pt", b""), r"ViT-B-16\.pt: it is empty; download"),
    "page": (named("model.safetensors", b"<!DOCTYPE html><html>404"), "a web page, no weights"),
    "picture": (named("a.jpg", b"\xff\xd8\xff"), "it holds no weights; weights are"),
    "archive": (named("clip.zip", b"PK\3\4"), "it is an archive: unpack it"),
    "ONNX": (named("model.onnx", b"\x08\x07"), "it is ONNX's, which is not read; weights are"),
    "TensorFlow": (only("tf_model.h5"), r"no weights \(tf_model\.h5 is TensorFlow's\): one of"),
    "safetensors called .pt": (moved("x.pt"), "it is a safetensors file by its content: rename it"),
    "torch called .safetensors": (named("x.safetensors", b"PK\3\4"), r"written by torch\.save: rename it"),
    "alone": (alone, rf"x\.safetensors: no config\.json .*{LONE}"),
    "broken link": (broken_link, r"model\.safetensors: cannot be read \(a link to a file that is not there\)"),
    "blob": (blob, r"it is in the hub's cache under no name: give the folder in .*snapshots"),
    "of the hub's cache": (in_the_hubs_cache, r"no checkpoint itself; name the folder of one, such as .*0123$"),
    "PEFT's file": (adapter("adapter_model.safetensors"), "an adapter of PEFT, no whole model: merge it"),
    "LoRA": (adapter("mine.safetensors"), r"mine\.safetensors: an adapter \(LoRA\), no whole model: merge it"),
    "packed": (packed, "its weights are quantised by bitsandbytes; convert the original"),
    "parts": (parts, r"clip: model-00002-of-00002\.safetensors of 2 shards is not there, nor their index"),
    "one part": (one_part, r"model-00001-of-00002\.safetensors: one of 2 shards of a checkpoint; give their folder"),
    "impossible part": (listed("\ud800.safetensors"), r"names the file '\\ud800\.safetensors', which no folder can"),
    "long part": (listed("a" * 5000 + ".safetensors"), "names the file 'aaaa.*, which no folder can have"),
    "diffusers": (marked("model_index.json"), "a pipeline of diffusers, with CLIP's text tower at most; give a CLIP"),
    "ZeRO": (marked("zero_to_fp32.py"), r"shards of a training on GPUs; save .*\(zero_to_fp32\.py\)"),
    "folder above": (marked("notes.txt"), r"outer: no checkpoint itself; name the folder of one, such as .*encoder$"),
}


@pytest.mark.parametrize("case", STRANGE)
def test_a_strange_file_is_named_and_nothing_is_written(checkpoint: Path, tmp_path: Path, case: str) -> None:
    make, message = STRANGE[case]
    source = make(checkpoint)
    with pytest.raises(UserError, match=message) as caught:
        convert(source, tmp_path / "m")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert [path.name for path in tmp_path.iterdir()] == ["clip"]


def write_shards(folder: Path) -> None:
    """Split the weights into two shards, and leave out their index."""
    weights = random_weights()
    for number in range(2):
        part = {name: weights[name] for name in sorted(weights)[number::2]}
        save_safetensors(part, folder / f"model-0000{number + 1}-of-00002.safetensors")
    (folder / "model.safetensors").unlink()


def test_all_shards_without_their_index_are_a_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    expected = contents(convert(checkpoint, tmp_path / "whole").folder)
    write_shards(checkpoint)
    assert contents(convert(checkpoint, tmp_path / "m").folder) == expected


def test_shards_without_their_index_are_downloaded(tmp_path: Path) -> None:
    names = ["config.json", "tokenizer.json", *(f"model-0000{number}-of-00002.safetensors" for number in (1, 2))]
    assert set(files_to_download([*names, "training_args.bin"], tmp_path.joinpath)) == set(names)
    with pytest.raises(UserError, match=r"model-00001-of-00002\.safetensors of 2 shards is not there"):
        files_to_download([*names[:2], names[3]], tmp_path.joinpath)


def test_a_model_folder_of_pointers_is_named(checkpoint: Path, tmp_path: Path) -> None:
    folder = convert(checkpoint, tmp_path / "m").folder
    (folder / "model.safetensors").write_text(POINTER)
    with pytest.raises(UserError, match=r"model\.safetensors: .*a pointer of Git LFS"):
        sz.load(folder).text()


def test_a_path_that_is_not_utf8_is_named(checkpoint: Path, tmp_path: Path) -> None:
    try:
        source = shutil.move(checkpoint, tmp_path / os.fsdecode(b"bad\xff"))
    except OSError:
        pytest.skip("this file system knows no such names")
    with pytest.raises(UserError, match="a name that is not UTF-8, which MLX cannot open; rename it"):
        convert(source, tmp_path / "m")


def test_a_header_of_any_length_is_safetensors() -> None:
    """Its first byte may be that of a pickle or of a page."""
    for length in (ord("<"), 0x80, 0x180):
        assert describe_content("model.safetensors", length.to_bytes(8, "little") + b'{"a":') is None
