"""Folders of other tools: converted where they hold a CLIP, else named, with what to do."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hf_checkpoint import CONFIG, PREPROCESSOR, contents, save_safetensors, write_checkpoint

from sharpzo_mlx.clip.checkpoint import load_config
from sharpzo_mlx.clip.handle import load
from sharpzo_mlx.clip.vocabulary import clip_vocabulary
from sharpzo_mlx.convert import convert
from sharpzo_mlx.convert.layout import files_to_download
from sharpzo_mlx.errors import UserError

OTHER_PIXELS = PREPROCESSOR | {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 3}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "clip")


def test_the_processors_own_file_is_read(checkpoint: Path) -> None:
    """As transformers 5 writes it; where both are there, it comes first, as there."""
    (checkpoint / "preprocessor_config.json").write_text(json.dumps(OTHER_PIXELS))
    old = load_config(convert(checkpoint, checkpoint.parent / "old").folder)
    whole = {"image_processor": OTHER_PIXELS, "processor_class": "CLIPProcessor"}
    (checkpoint / "processor_config.json").write_text(json.dumps(whole))
    (checkpoint / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    assert load_config(convert(checkpoint, checkpoint.parent / "both").folder) == old
    (checkpoint / "preprocessor_config.json").unlink()
    assert load_config(convert(checkpoint, checkpoint.parent / "new").folder) == old
    assert old.preprocessor.mean == (0.5, 0.5, 0.5)


def test_a_processors_file_without_preprocessing_changes_nothing(checkpoint: Path) -> None:
    """As transformers 4 writes it."""
    (checkpoint / "preprocessor_config.json").write_text(json.dumps(OTHER_PIXELS))
    (checkpoint / "processor_config.json").write_text('{"processor_class": "CLIPProcessor"}')
    assert load_config(convert(checkpoint, checkpoint.parent / "m").folder).preprocessor.mean == (0.5, 0.5, 0.5)


def test_the_processors_file_is_downloaded(tmp_path: Path) -> None:
    names = ["config.json", "processor_config.json", "tokenizer.json", "model.safetensors", "README.md"]
    assert "processor_config.json" in files_to_download(names, tmp_path.joinpath)


def adapter(folder: Path) -> None:
    described = {"peft_type": "LORA", "base_model_name_or_path": "openai/clip-vit-base-patch16"}
    (folder / "adapter_config.json").write_text(json.dumps(described))
    save_safetensors({"a": mx.ones(1)}, folder / "adapter_model.safetensors")


def trainer(folder: Path) -> None:
    for step in (500, 1500, 1000):
        write_checkpoint(folder / f"checkpoint-{step}")
    (folder / "training_args.bin").write_bytes(b"none")


def words(folder: Path) -> None:
    (folder / "modules.json").write_text("[]")
    (folder / "1_Pooling").mkdir()


KINDS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "adapter": (adapter, r"adapter of PEFT \(LORA\) of openai/clip-vit-base-patch16.*merge_and_unload"),
    "adapter, damaged": (lambda folder: (folder / "adapter_config.json").write_text("{"), "an adapter of PEFT, no"),
    "trainer": (trainer, r"name one of them, such as .*checkpoint-1500$"),
    "text model": (words, "sentence-transformers model without a CLIP"),
    "empty": (lambda folder: None, r"no config\.json"),
}


@pytest.mark.parametrize("case", KINDS)
def test_folders_without_a_model_are_named(tmp_path: Path, case: str) -> None:
    make, message = KINDS[case]
    (folder := tmp_path / "folder").mkdir()
    make(folder)
    with pytest.raises(UserError, match=message) as caught:
        convert(folder, tmp_path / "m")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "m").exists()


def test_a_checkpoint_of_a_trainer(tmp_path: Path) -> None:
    trainer(tmp_path)
    saved = tmp_path / "checkpoint-500"
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        (saved / name).write_bytes(b"never read")
    assert convert(saved, tmp_path / "m").parameters > 0


def test_the_clip_of_sentence_transformers(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "st" / "0_CLIPModel")
    (tmp_path / "st" / "modules.json").write_text("[]")
    (tmp_path / "st" / "README.md").write_text("---\nlicense: mit\n---\n")
    made = contents(convert(tmp_path / "st", tmp_path / "m").folder)
    plain = contents(convert(tmp_path / "st" / "0_CLIPModel", tmp_path / "n").folder)
    assert {name: made[name] for name in made if name != "README.md"} == {
        name: plain[name] for name in plain if name != "README.md"
    }


def test_the_clip_of_sentence_transformers_is_downloaded(tmp_path: Path) -> None:
    inside = ["config.json", "preprocessor_config.json", "tokenizer.json", "pytorch_model.bin", "optimizer.pt"]
    names = ["README.md", "modules.json", *(f"0_CLIPModel/{name}" for name in inside)]
    chosen = files_to_download(names, tmp_path.joinpath)
    assert set(chosen) == set(names) - {"0_CLIPModel/optimizer.pt"}


def test_an_adapter_on_the_hub_is_named(tmp_path: Path) -> None:
    adapter(tmp_path)
    with pytest.raises(UserError, match=r"adapter of PEFT .*merge_and_unload"):
        files_to_download(["adapter_config.json", "adapter_model.safetensors"], tmp_path.joinpath)


def test_an_adapter_beside_whole_weights_is_not_forgotten(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    adapter(checkpoint)
    with caplog.at_level(logging.WARNING, "sharpzo_mlx"):
        convert(checkpoint, checkpoint.parent / "m")
    assert "its adapter is left out" in caplog.text


@pytest.mark.parametrize("causal", [True, False])
def test_without_a_tokenizer_clips_own_vocabulary_is_used(
    checkpoint: Path, caplog: pytest.LogCaptureFixture, causal: bool
) -> None:
    rewrite_vocabulary(checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    config["text_config"] |= {"causal": causal}
    (checkpoint / "config.json").write_text(json.dumps(config))
    with caplog.at_level(logging.WARNING, "sharpzo_mlx"):
        clip = load(convert(checkpoint, checkpoint.parent / "m").folder)
    assert "no tokenizer; using CLIP's own vocabulary" in caplog.text
    assert clip.tokenizer.encode("a photo of a dog.") == [49406, 320, 1125, 539, 320, 1929, 269, 49407]
    assert clip.tokenizer.pad_id == 49407


def rewrite_vocabulary(folder: Path) -> None:
    """Give a checkpoint as many tokens as CLIP has, and no tokenizer."""
    tokens = len(clip_vocabulary().tokens)
    config = CONFIG | {"text_config": CONFIG["text_config"] | {"vocab_size": tokens, "eos_token_id": tokens - 1}}
    (folder / "config.json").write_text(json.dumps(config))
    weights: Any = mx.load(str(folder / "model.safetensors"))
    weights["text_model.embeddings.token_embedding.weight"] = mx.array(np.zeros((tokens, 16), np.float32))
    save_safetensors(weights, folder / "model.safetensors")
    (folder / "vocab.json").unlink()
    (folder / "merges.txt").unlink()


RELATIVES = {
    "siglip2": "NaFlex.*google/siglip2-base-patch16-224",
    "chinese_clip": "Chinese-CLIP",
    "metaclip_2": "MetaCLIP 2",
    "altclip": "AltCLIP",
}


@pytest.mark.parametrize("kind", RELATIVES)
def test_relatives_of_clip_are_refused_by_name(checkpoint: Path, kind: str) -> None:
    (checkpoint / "config.json").write_text(json.dumps(CONFIG | {"model_type": kind}))
    with pytest.raises(UserError, match=RELATIVES[kind]):
        convert(checkpoint, checkpoint.parent / "m")


OPEN_CLIP_RELATIVES: dict[str, tuple[dict[str, Any], str]] = {
    "eva": ({"vision_cfg": {"timm_model_name": "eva02_base_patch16_clip_224"}, "text_cfg": {}}, "EVA02"),
    "naflex": ({"vision_cfg": {"timm_model_name": "naflexvit_base"}, "text_cfg": {}}, "NaFlex"),
    "words": ({"vision_cfg": {}, "text_cfg": {"hf_tokenizer_name": "facebook/xlm-v-base"}}, "MetaCLIP 2"),
}


@pytest.mark.parametrize("case", OPEN_CLIP_RELATIVES)
def test_relatives_in_open_clips_form_are_refused_by_name(tmp_path: Path, case: str) -> None:
    network, message = OPEN_CLIP_RELATIVES[case]
    save_safetensors({"logit_scale": mx.ones(1)}, tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": network | {"embed_dim": 8}}))
    with pytest.raises(UserError, match=f"it is an? .*{message}"):
        convert(tmp_path, tmp_path / "m")


def test_relatives_are_known_by_their_tensors(checkpoint: Path) -> None:
    save_safetensors({"visual.blocks.0.mlp.w1.weight": mx.ones(1)}, checkpoint / "model.safetensors")
    with pytest.raises(UserError, match="EVA02"):
        convert(checkpoint, checkpoint.parent / "m")
    words = {"bert.encoder.layer.0.a": mx.ones(1)}
    for images, message in (({"visual.conv1.weight": mx.ones(1)}, "Chinese-CLIP"), ({}, r"no CLIP \(it holds 'bert")):
        save_safetensors(words | images, checkpoint / "model.safetensors")
        with pytest.raises(UserError, match=message):
            convert(checkpoint, checkpoint.parent / "m")


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors"])
def test_a_model_that_was_not_converted_is_not_loaded(checkpoint: Path, weights: str) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / weights)
    with pytest.raises(UserError, match=r"not converted yet; .*: sharpzo-mlx convert .*clip --output m"):
        load(checkpoint)


def test_a_weights_file_in_place_of_a_model(checkpoint: Path) -> None:
    with pytest.raises(UserError, match=r"is a file; make a model of it: sharpzo-mlx convert .*safetensors --output m"):
        load(checkpoint / "model.safetensors")


def test_a_model_of_ours_is_loaded_from_any_place(checkpoint: Path) -> None:
    made = convert(checkpoint, checkpoint.parent / "m").folder
    moved = Path(shutil.move(made, checkpoint.parent / "moved"))
    (moved / "notes.txt").write_text("mine")
    assert load(moved).encode_texts("a").shape == (1, 8)
