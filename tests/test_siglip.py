"""A SigLIP from its files to labels, through the command line: convert, tune, evaluate, predict; without torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from siglip_checkpoint import BIAS, CONFIG, as_hugging_face, random_weights, write_siglip

import sharpzo_mlx
from sharpzo_mlx.cli import main
from sharpzo_mlx.clip.checkpoint import load_model, read_logit_bias
from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.tower_config import SigLIPTextConfig
from sharpzo_mlx.convert import convert
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.evaluation.prediction import predict
from sharpzo_mlx.runs.prompt_file import read_prompt

BRIEF = ("--shots", "4", "--generations", "2", "--steps", "2")
SMALL = ("--set", "space.dimension=8", "--set", "stage1.population=4")


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("siglip")
    return convert(write_siglip(root / "theirs"), root / "m").folder


@pytest.fixture(scope="module")
def run(siglip: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tune the SigLIP through the command line."""
    output = tmp_path_factory.mktemp("runs") / "run"
    words = ["tune", photos, "--model", siglip, "--output", output, *BRIEF, *SMALL]
    assert main.run([str(word) for word in words]) == 0
    return output


def answer(capsys: pytest.CaptureFixture[str], *words: str | Path) -> Any:
    capsys.readouterr()
    assert main.run([str(word) for word in words]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_run_is_tuned_evaluated_and_labels_images(
    run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = photos / "cat" / "0.png"
    (one,) = answer(capsys, "predict", run, image, "--top", "3", "--json")["predictions"]
    assert sum(label["probability"] for label in one["labels"]) == pytest.approx(1, abs=1e-5)
    found = answer(capsys, "evaluate", run, photos, "--json")
    assert found
    (several,) = answer(capsys, "predict", run, image, "--multi-label", "--json")["predictions"]
    assert several["labels"]


def test_labels_of_their_own_are_the_logistic_function_of_the_words(run: Path, photos: Path) -> None:
    prompt, clip = read_prompt(run / "prompt.safetensors"), sharpzo_mlx.Run.load(run).prompt
    assert prompt.logit_bias == clip.logit_bias == pytest.approx(BIAS)
    images = sorted(photos.glob("*/*.png"))[::7]
    model = sharpzo_mlx.load(json.loads((run / "run.json").read_text())["model"]["folder"])
    features = np.array(model.encode_images(images), np.float64)
    cosines = features @ np.array(prompt.class_features, np.float64).T
    expected = 1 / (1 + np.exp(-(prompt.logit_scale * cosines + BIAS)))
    for row, found in zip(expected, predict(run, images, multi_label=True, clip=model), strict=True):
        likely = {prompt.class_names[k]: row[k] for k in np.flatnonzero(row >= 0.5)}
        assert found.rejected == (not likely)
        best = {prompt.class_names[row.argmax()]: row.max()}
        assert dict(found.labels) == pytest.approx(likely or best, abs=1e-4)


def test_own_labels_are_refused_for_a_clip_and_beside_rates(
    run: Path, finished_run: Path, photos: Path, refused: Callable[..., str]
) -> None:
    image = photos / "cat" / "0.png"
    assert "SigLIP" in refused("predict", finished_run, image, "--multi-label")
    assert "multi-label" in refused("predict", run, image, "--multi-label", "--reject", "0.05")
    prompt = read_prompt(finished_run / "prompt.safetensors")
    assert prompt.logit_bias is None
    with pytest.raises(UserError, match="SigLIP"):
        prompt.own_probabilities(mx.zeros((1, prompt.class_features.shape[1])))


def test_quantised_layers_stay_near(siglip: Path, tmp_path: Path) -> None:
    from sharpzo_mlx.convert.quantisation import Quantisation

    report = convert(siglip, tmp_path / "q", quantise=Quantisation(bits=8, group_size=32, vision=True))
    assert report.text_cosines is not None
    assert report.image_cosines is not None
    assert min(report.text_cosines.lowest, report.image_cosines.lowest) > 0.99


def test_half_precision_keeps_the_logits_numbers_exact(siglip: Path, tmp_path: Path) -> None:
    folder = convert(siglip, tmp_path / "half", dtype="float16").folder
    assert load_model(folder, dtype=mx.float16).logit_bias.dtype in (mx.float16, mx.float32)
    assert read_logit_bias(folder) == pytest.approx(BIAS, abs=1e-7)


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "naflex": ({"model_type": "siglip2"}, "NaFlex"),
    "one tower": ({"model_type": "siglip_vision_model"}, "only SigLIP's image tower"),
    "no pooling": ({"vision_config": CONFIG["vision_config"] | {"vision_use_head": False}}, "pooling head"),
    "widths": ({"text_config": CONFIG["text_config"] | {"projection_size": 24}}, "projection_size is 24"),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_other_siglips_are_refused_by_name(siglip: Path, tmp_path: Path, name: str) -> None:
    change, message = CHANGES[name]
    source = tmp_path / "theirs"
    write_siglip(source)
    (source / "config.json").write_text(json.dumps(CONFIG | change))
    with pytest.raises(UserError, match=message):
        convert(source, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    source = write_siglip(tmp_path / "theirs")
    arrays = as_hugging_face(random_weights(CLIPConfig.from_dict(CONFIG)))
    del arrays["logit_bias"]
    weights = {name: mx.array(np.ascontiguousarray(array)) for name, array in arrays.items()}
    mx.save_safetensors(str(source / "model.safetensors"), weights)
    with pytest.raises(UserError, match="logit_bias"):
        convert(source, tmp_path / "m")
    fewer = CONFIG["text_config"] | {"vocab_size": 600}
    (source / "config.json").write_text(json.dumps(CONFIG | {"text_config": fewer}))
    with pytest.raises(UserError, match=r"vocab_size is 600|600 tokens"):
        convert(source, tmp_path / "m")


def test_a_siglip_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    source = write_siglip(tmp_path / "theirs")
    (source / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="give a folder with its tokenizer"):
        convert(source, tmp_path / "m")


def test_the_configuration_is_read_back(siglip: Path) -> None:
    found = sharpzo_mlx.load(siglip).config
    assert CLIPConfig.from_dict(found.to_dict()) == found
    assert isinstance(found.text, SigLIPTextConfig)
    assert found.siglip
    assert found.vision.positions == 4
