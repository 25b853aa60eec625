"""Model folders and checkpoints of strangers: each ends in a result or in one line, at once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import mlx.core as mx
import pytest
from damaged_models import copy, edit, unsign
from hf_checkpoint import CONFIG, TOKENS, write_checkpoint
from mutations import mutate_bytes, mutate_json, mutate_safetensors
from PIL import Image

import sharpzo_mlx as sz
from sharpzo_mlx.clip.checkpoint import WEIGHTS, load_config
from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.safetensors_file import read_tensors
from sharpzo_mlx.clip.tokenizer import Tokenizer
from sharpzo_mlx.convert import convert
from sharpzo_mlx.errors import UserError, one_line, shown
from sharpzo_mlx.images.preprocessor import PreprocessorConfig

Refused = Callable[..., str]
NAN, INFINITY = float("nan"), float("inf")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint in Hugging Face's layout with every small file that is read."""
    folder = write_checkpoint(tmp_path / "hf")
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"bos_token": {"content": "<|startoftext|>", "lstrip": False}, "eos_token": "<|endoftext|>"})
    )
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"model_max_length": 77, "pad_token": None, "unk_token": {"content": "<|endoftext|>"}})
    )
    return folder


@pytest.fixture
def one_file(checkpoint: Path, tmp_path: Path) -> Path:
    """The same with a tokenizer.json in place of vocab.json and merges.txt."""
    converted = convert(checkpoint, tmp_path / "whole").folder
    shutil.copy(converted / "tokenizer.json", checkpoint / "tokenizer.json")
    for name in ("vocab.json", "merges.txt"):
        (checkpoint / name).unlink()
    return checkpoint


WRONG: dict[str, tuple[Any, ...]] = {
    "text_config.num_hidden_layers": (10**9, 10**19, 201, -1, True, 2.0),
    "vision_config.num_hidden_layers": (10**6, 201),
    "text_config.vocab_size": (2**20 + 1,),
    "text_config.hidden_size": (2**31,),
    "text_config.intermediate_size": (2**63,),
    "text_config.max_position_embeddings": (2**40,),
    "text_config.num_attention_heads": (3, 0),
    "text_config.eos_token_id": (2**40,),
    "text_config.layer_norm_eps": (0, 0.0, 1, -1e-5, 1e300, 10**400, "1e-5", [1e-5, 1e-6]),
    "vision_config.image_size": (10**5,),
    "vision_config.patch_size": (2**31,),
    "vision_config.num_channels": (4,),
    "vision_config.hidden_act": ("a\nb" * 1000,),
    "projection_dim": (0, 2**16 + 1, 2**80, [8, 9]),
    "quantization": ([], 3, {"bits": 5.5}, {"group_size": 7}, {"mode": "x"}, {"a": 1}, {"a": {"bits": "4"}}),
    "text_config": (3, "a", [1]),
    "model_type": (3, {"a": 1}, "a\nb", "x" * 10**5),
    "preprocessor": (3, "x", ["a"]),
    "preprocessor.size": ({"shortest_edge": 100_000}, {"shortest_edge": "8"}, -8),
    "preprocessor.crop_size": ({"height": 8},),
    "preprocessor.resample": ([3], 9, "bicubic"),
    "preprocessor.do_resize": ("yes", 2, []),
    "preprocessor.rescale_factor": (0, INFINITY, NAN, 1e300, "1"),
    "preprocessor.image_mean": (["a", 0, 0], [0, 0], 3, [NAN, 0, 0], [[], 0, 0]),
    "preprocessor.image_std": ([0, 1, 1], [1, 1, -1], [INFINITY, 1, 1], "abc"),
}


@pytest.mark.parametrize(("place", "value"), [(place, value) for place, values in WRONG.items() for value in values])
def test_the_fields_of_a_config_have_kinds_and_limits(place: str, value: Any) -> None:
    config = json.loads(json.dumps(CONFIG)) | {"preprocessor": PreprocessorConfig.for_size(8).to_dict()}
    CLIPConfig.from_dict(config)
    section, _, field = place.rpartition(".")
    (config[section] if section else config)[field] = value
    said = "the model is" if place == "model_type" else field
    with pytest.raises(UserError, match=rf"^(preprocessor_)?config\.json: .*{said}") as caught:
        CLIPConfig.from_dict(config)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250


def test_a_billion_layers_are_refused_at_once(
    checkpoint: Path, tiny_model: Path, tmp_path: Path, refused: Refused
) -> None:
    mine = copy(tiny_model, tmp_path / "mine")
    for folder in (checkpoint, mine):
        edit(folder / "config.json", lambda config: config["text_config"].update(num_hidden_layers=10**9))
    started = time.monotonic()
    line = refused("convert", checkpoint, "--output", tmp_path / "o")
    assert "text_config.num_hidden_layers is 1000000000; it must be 200 or less" in line
    with pytest.raises(UserError, match=rf"{mine}.*num_hidden_layers"):
        sz.load(mine)
    assert time.monotonic() - started < 5
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("text_config", "num_hidden_layers", 200),
        ("vision_config", "num_hidden_layers", 1),
        ("text_config", "vocab_size", 2**20),
        ("text_config", "max_position_embeddings", 2**13),
        ("text_config", "intermediate_size", 2**16),
        ("vision_config", "hidden_size", 2**16),
    ],
)
def test_sizes_that_the_file_does_not_have_are_refused_before_anything_is_built(
    checkpoint: Path,
    tiny_model: Path,
    tmp_path: Path,
    section: str,
    field: str,
    value: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine = copy(tiny_model, tmp_path / "mine")
    for folder in (checkpoint, mine):
        edit(folder / "config.json", lambda config: config[section].update({field: value}))
    monkeypatch.setattr("sharpzo_mlx.clip.checkpoint.fingerprint_of_file", lambda *_: "0" * 64)
    built: list[object] = []
    for module in ("sharpzo_mlx.clip.checkpoint", "sharpzo_mlx.convert.weights"):
        monkeypatch.setattr(f"{module}.CLIPModel", lambda *given: built.append(given))
    for attempt in (lambda: convert(checkpoint, tmp_path / "o"), lambda: sz.load(mine).text()):
        with pytest.raises(
            UserError, match=rf"{WEIGHTS}: its config\.json describes another model: {section}.{field} is {value}"
        ):
            attempt()
    assert not built


def test_weights_of_another_kind_of_number_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = copy(tiny_model, tmp_path / "m")
    weights = {name: mx.array(array) for name, array in read_tensors(folder / WEIGHTS).items()}
    mx.eval(weights)
    weights["text_projection.weight"] = weights["text_projection.weight"].astype(mx.int32)
    mx.save_safetensors(str(folder / WEIGHTS), weights)
    with pytest.raises(UserError, match=r"of another type text_projection\.weight"):
        sz.load(folder).text()


@pytest.mark.parametrize("number", [2**31, -1, len(TOKENS), 2**63, "7", 1.5, None, 3])
def test_token_ids_are_distinct_and_of_the_model(
    checkpoint: Path, tmp_path: Path, number: Any, refused: Refused
) -> None:
    edit(checkpoint / "vocab.json", lambda tokens: tokens.update({"b": number}))
    line = refused("convert", checkpoint, "--output", tmp_path / "o")
    assert str(checkpoint) in line
    assert not (tmp_path / "o").exists()


def test_an_id_of_2_to_the_31_does_not_end_the_process(one_file: Path, tmp_path: Path) -> None:
    edit(one_file / "tokenizer.json", lambda whole: whole["model"]["vocab"].update(b=2**31))
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))\n"
        "from sharpzo_mlx.cli.main import run; sys.exit(run(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "convert", str(one_file), "--output", str(tmp_path / "o")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 2, done.stderr
    assert "the id 2147483648, but the model has 57 tokens" in done.stderr


def test_a_panic_of_the_tokenizer_is_one_line(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    panic = type("PanicException", (BaseException,), {})

    def panicking(*_: object, **__: object) -> None:
        raise panic("called `Option::unwrap()` on a `None` value")

    tokenizer = Tokenizer.from_folder(tiny_model)
    monkeypatch.setattr(tokenizer, "_backend", type("Backend", (), {"encode": panicking}))
    with pytest.raises(UserError, match=r"cannot split 'a dog' .*unwrap"):
        tokenizer.encode("a dog")
    monkeypatch.setattr("sharpzo_mlx.clip.tokenizer.models.BPE", panicking)
    with pytest.raises(UserError, match=r"merges are wrong .*unwrap"):
        Tokenizer.from_folder(tiny_model)


@pytest.mark.parametrize(
    ("file", "change", "where"),
    [
        ("tokenizer.json", {"model": 3}, r"\$\.model"),
        ("tokenizer.json", {"added_tokens": [3]}, r"\$\.added_tokens\[0\]"),
        ("tokenizer.json", {"added_tokens": [{"content": "<x>"}]}, r"field `id`"),
        ("tokenizer.json", {"post_processor": {"cls": "a"}}, r"\$\.post_processor\.cls"),
        ("tokenizer.json", {"padding": []}, r"\$\.padding"),
        ("special_tokens_map.json", {"bos_token": 3}, r"\$\.bos_token"),
        ("special_tokens_map.json", {"eos_token": {"content": []}}, r"\$\.eos_token\.content"),
        ("tokenizer_config.json", {"model_max_length": "long"}, r"\$\.model_max_length"),
    ],
)
def test_the_fields_of_a_tokenizers_files_have_kinds(
    one_file: Path, file: str, change: dict[str, Any], where: str
) -> None:
    edit(one_file / file, lambda whole: whole.update(change))
    with pytest.raises(UserError, match=rf"{one_file / file}: .*{where}"):
        Tokenizer.from_folder(one_file)


@pytest.mark.parametrize("length", [2, 0, -5])
def test_a_text_has_room_for_a_word(one_file: Path, length: int) -> None:
    edit(one_file / "tokenizer_config.json", lambda whole: whole.update(model_max_length=length))
    with pytest.raises(UserError, match=f"a text may have {length} tokens"):
        Tokenizer.from_folder(one_file)


def test_lengths_that_mean_no_limit_are_read(one_file: Path) -> None:
    for said in ("1000000000000000019884624838656", "1e30", "null"):
        (one_file / "tokenizer_config.json").write_text(f'{{"model_max_length": {said}}}')
        assert Tokenizer.from_folder(one_file, load_config(one_file).text).context_length == 77


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "preprocessor_config.json", "tokenizer_config.json", WEIGHTS]
)
def test_a_pipe_in_a_checkpoint_is_refused(one_file: Path, tmp_path: Path, name: str, refused: Refused) -> None:
    (one_file / name).unlink()
    os.mkfifo(one_file / name)
    assert name in refused("convert", one_file, "--output", tmp_path / "o") or name == "tokenizer.json"


def test_words_of_strangers_are_short_and_in_one_line() -> None:
    assert one_line("a\nb\x1b[31m" + "x" * 100) == "a b [31m" + "x" * 72 + "..."
    assert shown("a\nb") == r"'a\nb'"
    assert shown(10**5000) == "a number of very many digits"
    assert shown([[1], 2]) == "a list of 2"
    assert shown([1, "a"]) == "[1, 'a']"
    assert shown({"a": 1}) == "an object"
    assert len(shown("x" * 10**6)) < 70


MUTATORS: dict[str, Callable[[bytes, Random], bytes]] = {
    ".json": mutate_json,
    ".safetensors": mutate_safetensors,
    ".txt": mutate_bytes,
}


@pytest.mark.parametrize("way", ["convert two files", "convert one file", "load", "load without a fingerprint"])
def test_mutations_give_a_result_or_one_line(way: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder: Path = request.getfixturevalue("checkpoint" if way == "convert two files" else "one_file")
    if way.startswith("load"):
        folder = convert(folder, tmp_path / "m").folder
    if way == "load without a fingerprint":
        unsign(folder)
    Image.new("RGB", (20, 26), (9, 100, 200)).save(tmp_path / "image.png")
    files = {path: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in MUTATORS}
    random, results, odd = Random(len(way)), 0, list[str]()
    for number in range(40):
        path = random.choice(list(files))
        path.write_bytes(MUTATORS[path.suffix](files[path], random))
        started = time.monotonic()
        try:
            made = folder if way.startswith("load") else convert(folder, tmp_path / f"o{number}").folder
            clip = sz.load(made)
            features = [clip.encode_texts("a photo of a dog."), clip.encode_images(tmp_path / "image.png")]
            assert all(mx.all(mx.isfinite(one)).item() for one in features)
            results += 1
        except UserError as error:
            odd += [str(error)] if not str(error).isprintable() or len(str(error)) > 700 else []
        assert time.monotonic() - started < 5, (number, path)
        assert not [one for one in tmp_path.iterdir() if one.name.startswith(".")]
        path.write_bytes(files[path])
    assert not odd
    assert 0 < results < 40
