"""open_clip's models, in every spelling, give the features that open_clip gives.

The models are random and small; open_clip itself makes them where it is installed.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from open_clip_models import MODELS, TEXT, TIMM, WHOLE

from sharpzo_mlx.clip.checkpoint import load_config, load_model
from sharpzo_mlx.clip.handle import load
from sharpzo_mlx.convert import convert

STANDARD = "open_clip_model.safetensors"
ORACLE = Path(__file__).with_name("oracle_open_clip.py")
TEXTS = ["a photo of a tench.", "two dogs!", "a satellite image of farmland"]
PREPROCESS = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bilinear", "resize_mode": "squash"}


@pytest.fixture(scope="module")
def oracle() -> Any:
    spec = importlib.util.spec_from_file_location("oracle_open_clip", ORACLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load()


def make(oracle: Any, description: dict[str, Any]) -> Any:
    """A random network of open_clip's whose layers all matter."""
    import torch

    torch.manual_seed(0)
    arguments = {name: value for name, value in description.items() if name != "custom_text"}
    kind = oracle.CustomTextCLIP if description.get("custom_text") else oracle.CLIP
    model = kind(**arguments).eval()
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0)
            elif name.endswith("running_mean"):
                value.normal_(0, 0.3)
            elif value.dtype == torch.float32 and value.ndim and "mask" not in name:
                value.add_(torch.randn_like(value) * (0.05 if value.ndim > 1 else 0.2))
    return model


def write(folder: Path, description: dict[str, Any], model: Any, form: str, tokenizer: str) -> Path:
    import torch

    folder.mkdir()
    (folder / "tokenizer.json").write_text(tokenizer)
    described = {"model_cfg": description, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(described))
    state = model.state_dict()
    if form.endswith(".safetensors"):
        arrays = {name: mx.array(value.numpy()) for name, value in state.items() if value.dtype == torch.float32}
        mx.save_safetensors(str(folder / form), arrays, metadata={"format": "pt"})
    else:
        torch.save(state, folder / form)
    return folder


def features_of(model: Any, pixels: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    import torch

    with torch.no_grad():
        images = model.encode_image(torch.tensor(pixels.transpose(0, 3, 1, 2)), normalize=True)
        texts = model.encode_text(torch.tensor(ids), normalize=True)
    return images.numpy(), texts.numpy(), float(model.logit_scale.exp().detach())


def padded(ids: mx.array, length: int = 77) -> np.ndarray:
    """Texts as open_clip's tokenizer pads them."""
    rows = np.array(ids)
    return np.pad(rows, ((0, 0), (0, length - rows.shape[1]))).astype(np.int64)


def check_features(folder: Path, model: Any) -> None:
    clip = load(folder)
    side = clip.config.vision.image_size
    draw = np.random.default_rng(1)
    pixels = (draw.normal(size=(3, side, side, 3)) + 3 * draw.normal(size=(3, 1, 1, 3))).astype(np.float32)
    images, texts, scale = features_of(model, pixels, padded(clip.tokenizer(TEXTS)))
    ours = np.array(clip.encode_pixels(pixels)), np.array(clip.encode_texts(TEXTS))
    np.testing.assert_allclose(ours[0], images, atol=1e-4)
    np.testing.assert_allclose(ours[1], texts, atol=1e-4)
    np.testing.assert_allclose(clip.logit_scale * ours[0] @ ours[1].T, scale * images @ texts.T, atol=1e-4 * scale)
    assert np.abs(images[0] - images[1]).max() > 1e-3  # ten times what is allowed: the comparison could fail
    assert np.abs(texts[0] - texts[1]).max() > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_features_equal_those_of_open_clip(oracle: Any, tmp_path: Path, tiny_tokenizer: str, name: str) -> None:
    model = make(oracle, MODELS[name])
    source = write(tmp_path / "clip", MODELS[name], model, STANDARD, tiny_tokenizer)
    check_features(convert(source, tmp_path / "m").folder, model)


@pytest.mark.parametrize("form", ["open_clip_pytorch_model.bin", "open_clip_pytorch_model.safetensors"])
@pytest.mark.parametrize("name", ["vit quick", "resnet"])
def test_every_spelling_gives_the_same_files(
    oracle: Any, tmp_path: Path, tiny_tokenizer: str, name: str, form: str
) -> None:
    model = make(oracle, MODELS[name])
    one = convert(write(tmp_path / "a", MODELS[name], model, STANDARD, tiny_tokenizer), tmp_path / "one").folder
    two = convert(write(tmp_path / "b", MODELS[name], model, form, tiny_tokenizer), tmp_path / "two").folder
    for file in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (one / file).read_bytes() == (two / file).read_bytes(), file
    again = convert(one, tmp_path / "again").folder
    assert all((one / path.name).read_bytes() == path.read_bytes() for path in again.iterdir())


def test_preprocessing_and_sizes_come_from_the_file(oracle: Any, tmp_path: Path, tiny_tokenizer: str) -> None:
    description = MODELS["vit gelu"]
    source = write(
        tmp_path / "clip", description, make(oracle, description), "open_clip_model.safetensors", tiny_tokenizer
    )
    found = load_config(convert(source, tmp_path / "m").folder)
    assert found.preprocessor.resize == (32, 32)
    assert found.preprocessor.crop is None
    assert found.preprocessor.resample == 2
    assert found.preprocessor.mean == (0.5, 0.4, 0.3)
    assert found.vision.hidden_act == found.text.hidden_act == "gelu"  # type: ignore[union-attr]
    assert found.text.eos_token_id == 513


def trace(model: Any, path: Path, size: int) -> Path:
    """Save a network as OpenAI's archives are saved: a traced program in half precision, with three buffers."""
    import torch

    sizes = {"input_resolution": size, "context_length": 77, "vocab_size": 49408}
    buffers = {name: torch.tensor(value) for name, value in sizes.items()}
    for name, value in buffers.items():
        if hasattr(model, name):
            delattr(model, name)
        model.register_buffer(name, value)
    images, texts = torch.zeros(1, 3, size, size), torch.zeros(1, 77, dtype=torch.long)
    traced = torch.jit.trace(model, (images, texts), check_trace=False, strict=False)
    torch.jit.save(traced, path)
    return path


@pytest.mark.filterwarnings("ignore")  # torch's tracer, which is deprecated, has much to say
@pytest.mark.parametrize("name", ["vit quick", "resnet"])
def test_an_archive_of_openai_describes_itself(oracle: Any, tmp_path: Path, name: str) -> None:
    wide = {"width": 64, "heads": 1}  # of archives every head is 64 wide
    vision = MODELS[name]["vision_cfg"] | {"head_width": 64}
    description = MODELS[name] | {"text_cfg": TEXT | wide | WHOLE, "vision_cfg": vision}
    model = make(oracle, description)
    archive = trace(model, tmp_path / "archive.pt", vision["image_size"])
    folder = convert(archive, tmp_path / "m").folder
    check_features(folder, model)
    assert "ResNet" in type(load_config(folder).vision).__name__ or name == "vit quick"


def test_in_timms_folder_both_towers_are_found(oracle: Any, tmp_path: Path, tiny_tokenizer: str) -> None:
    model = make(oracle, MODELS["vit quick"])
    source = write(tmp_path / "clip", MODELS["vit quick"], model, STANDARD, tiny_tokenizer)
    (source / "config.json").write_text(json.dumps(TIMM))
    mx.save_safetensors(str(source / "model.safetensors"), {"cls_token": mx.zeros((1, 1, 8))})
    check_features(convert(source, tmp_path / "m").folder, model)
    check_features(convert(source / "open_clip_model.safetensors", tmp_path / "n").folder, model)


def test_a_training_checkpoint_is_read_with_its_description(oracle: Any, tmp_path: Path, tiny_tokenizer: str) -> None:
    torch = pytest.importorskip("torch")
    model = make(oracle, MODELS["vit quick"])
    source = write(tmp_path / "clip", MODELS["vit quick"], model, "open_clip_pytorch_model.bin", tiny_tokenizer)
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"epoch": 3, "name": "x", "state_dict": state}, source / "open_clip_pytorch_model.bin")
    check_features(convert(source, tmp_path / "m").folder, model)


def test_no_causal_mask_takes_the_full_path(oracle: Any, tmp_path: Path, tiny_tokenizer: str) -> None:
    from sharpzo_mlx.prompts.full_text import FullText
    from sharpzo_mlx.prompts.text_features import specialise_text_tower
    from sharpzo_mlx.prompts.tokens import tokenise_prompts

    description = MODELS["no causal mask"]
    source = write(
        tmp_path / "clip", description, make(oracle, description), "open_clip_model.safetensors", tiny_tokenizer
    )
    clip = load(convert(source, tmp_path / "m").folder)
    assert clip.tokenizer.pad_id == 0  # what fills a text up is seen by its words
    tokens = tokenise_prompts(clip.tokenizer, "a photo of a {}.", ["tench", "great white shark"])
    half = load_model(clip.folder, towers=("text",))
    text = specialise_text_tower(half.text_model, half.text_projection, tokens)
    assert isinstance(text, FullText)
    context = half.text_model.embed(mx.array([tokens.prefix]))
    expected = clip.encode_texts(["a photo of a tench.", "a photo of a great white shark."])
    np.testing.assert_allclose(np.array(text.class_features(context)[0]), np.array(expected), atol=1e-5)


def test_the_oracle_is_not_left_behind() -> None:
    assert not type(sys.modules.get("torchvision")).__name__.startswith("_Anything")
