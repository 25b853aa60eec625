"""Every stage of CLIP against transformers in torch: the testbed's checkpoint, and random small ones.

Tolerances are absolute, on values of the order of one: 1e-4 in float32. In float16 and bfloat16 our features
are compared with float32 features of the same rounded weights, and, within twice that, with transformers' own
half-precision features: the difference is the format's rounding, which each library does in its own order.
"""

from __future__ import annotations

import copy
import importlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.model import CLIPModel

FLOAT32 = 1e-4
HALF = {"float16": 2e-3, "bfloat16": 8e-3}


def import_oracle() -> tuple[Any, Any]:
    """torch and transformers; a torchvision that does not fit the torch beside it is left aside."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError):
        from transformers.utils import import_utils

        import_utils.is_torchvision_available = lambda: False
        transformers.utils.is_torchvision_available = lambda: False
    return torch, transformers


@dataclass(frozen=True)
class Pair:
    """One network in both libraries."""

    theirs: Any
    ours: CLIPModel
    torch: Any


def renamed(state: Mapping[str, Any]) -> dict[str, mx.array]:
    """torch's weights under our names and in our layout."""
    weights = {name: value.detach().float().numpy() for name, value in state.items()}
    return {
        name: mx.array(np.ascontiguousarray(value.transpose(0, 2, 3, 1)) if value.ndim == 4 else value)
        for name, value in weights.items()
        if not name.endswith("position_ids")
    }


def pair(torch: Any, theirs: Any) -> Pair:
    config = CLIPConfig.from_dict(json.loads(json.dumps(theirs.config.to_dict())))
    ours = CLIPModel(config)
    ours.load_weights(list(renamed(theirs.state_dict()).items()))
    return Pair(theirs.eval(), ours, torch)


RANDOM: dict[str, dict[str, Any]] = {
    "quick_gelu": {},
    "gelu": {"hidden_act": "gelu"},
    "gelu_pytorch_tanh": {"hidden_act": "gelu_pytorch_tanh"},
    "gelu_new": {"hidden_act": "gelu_new"},
    "gelu_fast": {"hidden_act": "gelu_fast"},
    "large epsilon": {"layer_norm_eps": 1e-2},
    "small epsilon": {"layer_norm_eps": 1e-12},
    "legacy end of text": {"text": {"eos_token_id": 2}},
    "other end of text": {"text": {"eos_token_id": 5, "pad_token_id": 0}},
    "one head, one layer": {"num_attention_heads": 1, "num_hidden_layers": 1},
    "patches that do not fill the image": {"vision": {"image_size": 29, "patch_size": 6}},
    "one patch": {"vision": {"image_size": 16, "patch_size": 16}},
    "unequal towers": {"text": {"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 5}},
}


def random_pair(name: str) -> Pair:
    """A small network with weights large enough that every part of it matters."""
    torch, transformers = import_oracle()
    own = dict(RANDOM[name])
    text, vision = own.pop("text", {}), own.pop("vision", {})
    shared = {
        "hidden_size": 32,
        "intermediate_size": 80,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
    } | own
    ids = {"vocab_size": 60, "max_position_embeddings": 20, "bos_token_id": 58, "eos_token_id": 59}
    config = transformers.CLIPConfig(
        text_config=shared | ids | text,
        vision_config={"image_size": 24, "patch_size": 8} | shared | vision,
        projection_dim=20,
    )
    torch.manual_seed(sum(map(ord, name)))
    theirs = transformers.CLIPModel(config)
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.add_(torch.randn_like(weight) * (0.2 if weight.ndim > 1 else 0.1))
    return pair(torch, theirs)


@pytest.fixture(scope="module", params=list(RANDOM))
def random_network(request: pytest.FixtureRequest) -> Pair:
    return random_pair(request.param)


@pytest.fixture(scope="module")
def tiny(testbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The testbed's checkpoint in float32; copied, because transformers may write beside what it reads."""
    torch, transformers = import_oracle()
    folder = tmp_path_factory.mktemp("tiny")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(testbed / "clip-tiny" / name, folder / name)
    return pair(torch, transformers.CLIPModel.from_pretrained(str(folder), dtype=torch.float32))


def some_ids(network: Pair) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Texts [4, 11] of unequal length with start, end and padding; one has its end of text many times."""
    text = network.theirs.config.text_config
    last = text.vocab_size - 1
    eos = last if text.eos_token_id == 2 else text.eos_token_id
    draw = np.random.default_rng(3)
    ids = draw.integers(6, last - 1, (4, 11))
    ids[:, 0] = last - 1
    for row, length in enumerate((11, 2, 7, 4)):
        ids[row, length - 1 :] = eos if row == 1 else 0
        ids[row, length - 1] = eos
    return ids


def some_pixels(network: Pair) -> np.ndarray[Any, np.dtype[np.float32]]:
    """[3, size, size, 3]"""
    size = network.theirs.config.vision_config.image_size
    return np.random.default_rng(4).standard_normal((3, size, size, 3), dtype=np.float32)


def their_tower(network: Pair, name: str) -> tuple[list[Any], Any]:
    """The hidden states of a tower of theirs (embeddings first) and its pooled output, as arrays."""
    torch = network.torch
    with torch.no_grad():
        if name == "text":
            out = network.theirs.text_model(torch.tensor(some_ids(network)), output_hidden_states=True)
        else:
            pixels = torch.tensor(some_pixels(network).transpose(0, 3, 1, 2).copy())
            out = network.theirs.vision_model(pixels, output_hidden_states=True)
    return [state.numpy() for state in out.hidden_states], out.pooler_output.numpy()


def our_tower(network: Pair, name: str) -> tuple[list[mx.array], mx.array]:
    """The same of ours."""
    x: mx.array
    if name == "text":
        tower, ids = network.ours.text_model, mx.array(some_ids(network))
        x, mask, pooled = tower.embed(ids) + tower.positions(ids.shape[1]), "causal", tower(ids)
        layers = tower.encoder.layers
    else:
        sight, pixels = network.ours.vision_model, mx.array(some_pixels(network))
        x, mask, pooled = sight.pre_layrnorm(sight.embeddings(pixels)), None, sight(pixels)
        layers = sight.encoder.layers
    states = [x]
    for layer in layers:
        states.append(layer(states[-1], mask))
    return states, pooled


def assert_tower_agrees(network: Pair, name: str) -> None:
    (expected, expected_pooled), (states, pooled) = their_tower(network, name), our_tower(network, name)
    assert len(states) == len(expected)
    for state, wanted in zip(states, expected, strict=True):
        np.testing.assert_allclose(np.array(state), wanted, atol=FLOAT32, rtol=0)
    np.testing.assert_allclose(np.array(pooled), expected_pooled, atol=FLOAT32, rtol=0)


def assert_features_agree(network: Pair) -> None:
    torch, ids, pixels = network.torch, some_ids(network), some_pixels(network)
    with torch.no_grad():
        out = network.theirs(torch.tensor(ids), torch.tensor(pixels.transpose(0, 3, 1, 2).copy()))
    texts, images = network.ours.text_features(mx.array(ids)), network.ours.image_features(mx.array(pixels))
    logits = mx.exp(network.ours.logit_scale) * (images @ texts.T)
    np.testing.assert_allclose(np.array(texts), out.text_embeds.numpy(), atol=FLOAT32, rtol=0)
    np.testing.assert_allclose(np.array(images), out.image_embeds.numpy(), atol=FLOAT32, rtol=0)
    np.testing.assert_allclose(np.array(logits), out.logits_per_image.numpy(), atol=FLOAT32 * 10, rtol=0)


@pytest.mark.parametrize("tower", ["text", "vision"])
def test_hidden_states_of_random_networks(random_network: Pair, tower: str) -> None:
    assert_tower_agrees(random_network, tower)


def test_features_and_logits_of_random_networks(random_network: Pair) -> None:
    assert_features_agree(random_network)


@pytest.mark.parametrize("tower", ["text", "vision"])
def test_hidden_states_of_the_testbed(tiny: Pair, tower: str) -> None:
    assert_tower_agrees(tiny, tower)


def test_features_and_logits_of_the_testbed(tiny: Pair) -> None:
    assert_features_agree(tiny)


@pytest.mark.parametrize("name", list(HALF))
def test_half_precision_stays_within_its_stated_tolerance(tiny: Pair, name: str) -> None:
    ids, pixels = mx.array(some_ids(tiny)), mx.array(some_pixels(tiny))
    half, full = (CLIPModel(tiny.ours.config) for _ in range(2))
    for network in (half, full):
        network.load_weights(list(renamed(tiny.theirs.state_dict()).items()))
        network.set_dtype(getattr(mx, name))
    full.set_dtype(mx.float32)
    assert half.text_model(ids).dtype == half.vision_model(pixels).dtype == getattr(mx, name)
    texts, images = half.text_features(ids), half.image_features(pixels)
    assert texts.dtype == images.dtype == mx.float32
    np.testing.assert_allclose(np.array(texts), np.array(full.text_features(ids)), atol=HALF[name], rtol=0)
    np.testing.assert_allclose(np.array(images), np.array(full.image_features(pixels)), atol=HALF[name], rtol=0)


@pytest.mark.parametrize("name", list(HALF))
def test_half_precision_agrees_with_transformers_half_precision(tiny: Pair, name: str) -> None:
    torch, ids, pixels = tiny.torch, some_ids(tiny), some_pixels(tiny)
    half = CLIPModel(tiny.ours.config)
    half.load_weights(list(renamed(tiny.theirs.state_dict()).items()))
    half.set_dtype(getattr(mx, name))
    theirs = copy.deepcopy(tiny.theirs).to(getattr(torch, name))
    with torch.no_grad():
        out = theirs(torch.tensor(ids), torch.tensor(pixels.transpose(0, 3, 1, 2).copy()))
    for ours, wanted in (
        (half.text_features(mx.array(ids)), out.text_embeds),
        (half.image_features(mx.array(pixels)), out.image_embeds),
    ):
        np.testing.assert_allclose(np.array(ours), wanted.float().numpy(), atol=2 * HALF[name], rtol=0)
