"""The towers against a plain numpy transformer in float64, one token at a time, and what callers rely on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from sharpzo_mlx.clip.activations import BLOCK, activation, rational_sigmoid
from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.runtime.device import on_cpu

Array = np.ndarray[Any, np.dtype[np.float64]]

START, END = 38, 39
IDS = [[START, 5, 6, 7, END, 0, 0], [START, END, 9, 9, 9, 9, 9], [START, 1, 2, 3, 4, 5, END]]


def small_config(act: str = "quick_gelu", **text: Any) -> CLIPConfig:
    tower: dict[str, Any] = {
        "hidden_size": 12,
        "intermediate_size": 20,
        "num_attention_heads": 3,
        "num_hidden_layers": 2,
    }
    tower |= {"hidden_act": act, "layer_norm_eps": 1e-3}
    ids = {"vocab_size": 40, "max_position_embeddings": 9, "bos_token_id": START, "eos_token_id": END}
    given = {
        "model_type": "clip",
        "text_config": tower | ids | {"pad_token_id": 0} | text,
        "vision_config": tower | {"image_size": 7, "patch_size": 3},
        "projection_dim": 10,
    }
    return CLIPConfig.from_dict(given)


def weights_of(model: CLIPModel) -> dict[str, mx.array]:
    return dict(sorted(dict(tree_flatten(model.parameters())).items()))


def small_model(config: CLIPConfig, towers: tuple[str, ...] = ("text", "vision")) -> CLIPModel:
    """Seeded weights, large enough that every part matters."""
    model, draw = CLIPModel(config, towers), np.random.default_rng(5)
    drawn = {name: 0.4 * draw.standard_normal(weight.shape) for name, weight in weights_of(model).items()}
    model.load_weights([(name, mx.array(weight, mx.float32)) for name, weight in drawn.items()])
    return model


def arrays(model: CLIPModel) -> dict[str, Array]:
    return {name: np.array(weight).astype(np.float64) for name, weight in weights_of(model).items()}


def plain_activation(name: str) -> Callable[[float], float]:
    if name == "quick_gelu":
        return lambda x: x / (1 + math.exp(-1.702 * x))
    if name == "gelu":
        return lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2
    return lambda x: x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def norm(x: Array, w: dict[str, Array], name: str, eps: float = 1e-3) -> Array:
    centred = x - x.mean()
    scaled: Array = centred / math.sqrt((centred**2).mean() + eps) * w[f"{name}.weight"] + w[f"{name}.bias"]
    return scaled


def linear(x: Array, w: dict[str, Array], name: str) -> Array:
    mapped: Array = w[f"{name}.weight"] @ x + w[f"{name}.bias"]
    return mapped


def attention(rows: list[Array], w: dict[str, Array], name: str, *, heads: int, causal: bool) -> list[Array]:
    """Attention by its definition: for each position and head, weigh the values it may see."""
    queries, keys, values = ([linear(x, w, f"{name}.{p}_proj") for x in rows] for p in "qkv")
    size, mixed = len(rows[0]) // heads, []
    for t, query in enumerate(queries):
        seen = t + 1 if causal else len(rows)
        row = np.zeros_like(rows[0])
        for part in (slice(h * size, (h + 1) * size) for h in range(heads)):
            scores = np.exp([query[part] @ keys[s][part] / math.sqrt(size) for s in range(seen)])
            row[part] = sum(score * values[s][part] for s, score in enumerate(scores / scores.sum()))
        mixed.append(linear(row, w, f"{name}.out_proj"))
    return mixed


def plain_tower(rows: list[Array], w: dict[str, Array], tower: str, *, act: str, causal: bool) -> list[Array]:
    function = plain_activation(act)
    for layer in (f"{tower}.encoder.layers.{n}" for n in range(2)):
        normed = [norm(x, w, f"{layer}.layer_norm1") for x in rows]
        mixed = attention(normed, w, f"{layer}.self_attn", heads=3, causal=causal)
        rows = [x + y for x, y in zip(rows, mixed, strict=True)]
        hidden = [linear(norm(x, w, f"{layer}.layer_norm2"), w, f"{layer}.mlp.fc1") for x in rows]
        hidden = [np.array([function(value) for value in x]) for x in hidden]
        rows = [x + linear(y, w, f"{layer}.mlp.fc2") for x, y in zip(rows, hidden, strict=True)]
    return rows


def plain_text(w: dict[str, Array], ids: list[int], end: int, *, act: str, causal: bool = True) -> Array:
    tables = "text_model.embeddings"
    tokens, places = w[f"{tables}.token_embedding.weight"], w[f"{tables}.position_embedding.weight"]
    rows = plain_tower([tokens[i] + places[t] for t, i in enumerate(ids)], w, "text_model", act=act, causal=causal)
    projected = w["text_projection.weight"] @ norm(rows[end], w, "text_model.final_layer_norm")
    unit: Array = projected / np.linalg.norm(projected)
    return unit


def plain_image(w: dict[str, Array], image: Array, *, act: str) -> Array:
    tables = "vision_model.embeddings"
    kernel = w[f"{tables}.patch_embedding.weight"]  # [width, 3, 3, channels]
    corners = [(0, 0), (0, 3), (3, 0), (3, 3)]  # the seventh row and column fill no patch
    patches = [np.tensordot(kernel, image[y : y + 3, x : x + 3], 3) for y, x in corners]
    places = w[f"{tables}.position_embedding.weight"]
    rows = [x + places[t] for t, x in enumerate([w[f"{tables}.class_embedding"], *patches])]
    rows = [norm(x, w, "vision_model.pre_layrnorm") for x in rows]
    first = plain_tower(rows, w, "vision_model", act=act, causal=False)[0]
    projected = w["visual_projection.weight"] @ norm(first, w, "vision_model.post_layernorm")
    unit: Array = projected / np.linalg.norm(projected)
    return unit


@pytest.mark.parametrize("act", ["quick_gelu", "gelu", "gelu_new"])
def test_features_equal_a_plain_transformer(act: str) -> None:
    model = small_model(small_config(act))
    w, pixels = arrays(model), np.random.default_rng(6).standard_normal((2, 7, 7, 3))
    texts = [plain_text(w, ids, ids.index(END), act=act) for ids in IDS]
    images = [plain_image(w, image, act=act) for image in pixels]
    np.testing.assert_allclose(np.array(model.text_features(mx.array(IDS))), texts, atol=2e-6)
    np.testing.assert_allclose(np.array(model.image_features(mx.array(pixels, mx.float32))), images, atol=2e-6)


@pytest.mark.parametrize("name", ["quick_gelu", "gelu", "gelu_pytorch_tanh", "gelu_new", "gelu_fast"])
def test_activations_equal_their_definitions_everywhere(name: str) -> None:
    x = np.concatenate([np.linspace(-12, 12, 4001), [-500.0, -88.0, 88.0, 500.0]]).astype(np.float32)
    expected = np.array([plain_activation(name)(float(value)) if abs(value) < 100 else max(value, 0) for value in x])
    got = np.array(activation(name)(mx.array(x)))
    np.testing.assert_allclose(got, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["quick_gelu", "gelu", "gelu_pytorch_tanh"])
def test_activations_have_their_derivatives_in_forward_mode(name: str) -> None:
    x, function, h = np.linspace(-8, 8, 161).astype(np.float32), plain_activation(name), 1e-5
    expected = [(function(float(v) + h) - function(float(v) - h)) / (2 * h) for v in x]
    _, (slope,) = mx.jvp(activation(name), [mx.array(x)], [mx.ones(x.shape)])
    np.testing.assert_allclose(np.array(slope), expected, atol=2e-6)


def test_the_rational_sigmoid_is_exact_to_float32_everywhere() -> None:
    y = np.concatenate([np.linspace(-40, 40, 200_001), [-1e30, 1e30, -np.inf, np.inf]]).astype(np.float32)
    with np.errstate(over="ignore"):
        expected = 1 / (1 + np.exp(-y.astype(np.float64)))
    got = np.array(rational_sigmoid(mx.array(y)))
    np.testing.assert_allclose(got, expected, atol=4e-7, rtol=0)
    assert got.min() >= 0
    assert np.isnan(np.array(rational_sigmoid(mx.array([np.nan]))))


def test_the_rational_sigmoid_is_differentiated_in_every_mode_and_mapped() -> None:
    y = mx.array(np.linspace(-9, 9, 61).reshape(1, 61), mx.float32)
    s = mx.sigmoid(y)
    slope = np.array(s * (1 - s))
    _, (forward,) = mx.jvp(rational_sigmoid, [y], [mx.ones(y.shape)])
    mapped = mx.vmap(lambda v: mx.jvp(rational_sigmoid, [v], [mx.ones(v.shape)])[1][0])(y)
    backward = mx.grad(lambda v: rational_sigmoid(v).sum())(y)
    for got in (forward, mapped, backward):
        np.testing.assert_allclose(np.array(got), slope, atol=1e-6)


@pytest.mark.parametrize("name", ["quick_gelu", "gelu_new"])
def test_large_arrays_give_what_small_ones_give(name: str) -> None:
    x, function = mx.random.normal((3, BLOCK + 7), key=mx.random.key(0)) * 4, activation(name)
    rows = [function(row.reshape(-1, 1))[:, 0] for part in x for row in mx.split(part, [100, BLOCK // 2])]
    np.testing.assert_array_equal(np.array(function(x)).reshape(-1), np.concatenate([np.array(r) for r in rows]))
    _, (slopes,) = mx.jvp(function, [x], [mx.ones(x.shape)])
    _, (first,) = mx.jvp(function, [x[:, :9]], [mx.ones((3, 9))])
    np.testing.assert_array_equal(np.array(slopes)[:, :9], np.array(first))


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_activations_keep_half_precision(dtype: mx.Dtype) -> None:
    for name in ("quick_gelu", "gelu", "gelu_new"):
        assert activation(name)(mx.ones((2,), dtype)).dtype == dtype


def test_what_follows_the_end_of_a_text_changes_nothing() -> None:
    model = small_model(small_config())
    changed = [[START, 5, 6, 7, END, 8, 9], [START, END, 1, 2, 3, 4, 5]]
    whole = model.text_features(mx.array(IDS))
    rounding = 0 if on_cpu() else 1e-6  # a GPU may sum another batch in another order
    with_others = np.array(model.text_features(mx.array(changed)))
    np.testing.assert_allclose(with_others, np.array(whole[:2]), rtol=0, atol=rounding)
    np.testing.assert_allclose(np.array(model.text_features(mx.array([IDS[1][:2]])))[0], np.array(whole[1]), atol=1e-6)


def test_both_conventions_of_where_a_text_ends() -> None:
    ids = mx.array([[START, 7, 2, END, 2], [START, 2, END, 7, END], [START, 5, END, END, 2]])
    newer, legacy = (small_model(small_config(eos_token_id=eos)).text_model for eos in (7, 2))
    assert newer.eos_positions(ids).tolist() == [1, 3, 0]
    assert legacy.eos_positions(ids).tolist() == [3, 2, 2]


def test_embeddings_in_the_place_of_tokens_give_the_same() -> None:
    text = small_model(small_config()).text_model
    ids = mx.array(IDS)
    given = text.from_embeddings(text.embed(ids), mx.array([4, 1, 6]))
    np.testing.assert_array_equal(np.array(given), np.array(text(ids)))


def test_keys_and_values_of_a_prefix_can_be_shared() -> None:
    attention_ = small_model(small_config()).text_model.encoder.layers[0].self_attn
    x = mx.array(np.random.default_rng(7).standard_normal((2, 6, 12)), mx.float32)
    keys, values = (attention_.heads(project(x)) for project in (attention_.k_proj, attention_.v_proj))
    tail = attention_.attend(attention_.heads(attention_.q_proj(x[:, 4:])), keys, values, "causal")
    np.testing.assert_allclose(np.array(tail), np.array(attention_(x, "causal"))[:, 4:], atol=1e-6)


def test_a_tower_without_the_causal_mask_sees_its_padding() -> None:
    model = small_model(small_config(causal=False, pad_token_id=3))
    ids, w = [START, 5, 6, END], arrays(model)
    padded = ids + [3] * 5
    expected = plain_text(w, padded, 3, act="quick_gelu", causal=False)
    for given in (ids, padded, padded[:6]):
        np.testing.assert_allclose(np.array(model.text_features(mx.array([given])))[0], expected, atol=2e-6)
    other = small_model(small_config(pad_token_id=3)).text_features(mx.array([ids]))
    assert np.abs(np.array(other)[0] - expected).max() > 1e-2


def test_one_tower_alone_gives_the_same_features() -> None:
    config = small_config()
    both, text = small_model(config), CLIPModel(config, ("text",))
    names = weights_of(text).keys()
    assert not any(name.startswith("vis") for name in names)
    text.load_weights([(name, weight) for name, weight in weights_of(both).items() if name in names])
    ids = mx.array(IDS)
    np.testing.assert_array_equal(np.array(text.text_features(ids)), np.array(both.text_features(ids)))
    assert not hasattr(text, "vision_model")


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_weights_compute_in_half_and_features_are_float32(dtype: mx.Dtype) -> None:
    model = small_model(small_config())
    model.set_dtype(dtype)
    ids, pixels = mx.array(IDS), mx.zeros((1, 7, 7, 3))
    assert model.text_model(ids).dtype == model.vision_model(pixels).dtype == dtype
    for features in (model.text_features(ids), model.image_features(pixels)):
        assert features.dtype == mx.float32
        np.testing.assert_allclose(np.linalg.norm(np.array(features), axis=1), 1, atol=1e-6)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(8, 8, 3\) an image, the image tower takes \(7, 7, 3\)"):
        small_model(small_config()).image_features(mx.zeros((1, 8, 8, 3)))
