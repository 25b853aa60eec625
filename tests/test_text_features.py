"""Every exact saving of the text tower equals the plain computation over 77 tokens, as a graph and in NumPy."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx.utils import tree_map

from sharpzo_mlx.clip.checkpoint import load_model
from sharpzo_mlx.clip.handle import load
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.prompts.full_text import FullText
from sharpzo_mlx.prompts.prefix_tree import pack
from sharpzo_mlx.prompts.shared_prefix import SharedPrefixText
from sharpzo_mlx.prompts.space import PromptSpace, make_space
from sharpzo_mlx.prompts.text_features import specialise_text_tower
from sharpzo_mlx.prompts.tokens import PromptTokens, tokenise_prompts

NAMES = ("cat", "ox", "barn owl", "great white shark", "dog", "a")
BACKENDS = ("graph", "numpy")
TEMPLATES = ("a photo of a {}.", "art {}", "it is a {}, seen from far away!")


def prompts(folder: Path, template: str = TEMPLATES[0]) -> tuple[CLIPModel, PromptTokens, PromptSpace]:
    half = load_model(folder, towers=("text",))
    tokens = tokenise_prompts(load(folder).tokenizer, template, NAMES)
    space = make_space(half.text_model, tokens, dimension=16, relative_scale=20.0, projection_std=None, seed=1)
    return half, tokens, space


def features(text: SharedPrefixText, contexts: mx.array, backend: str) -> np.ndarray:
    """The class features [P, K, D] as the graph or as NumPy computes them."""
    if backend == "numpy":
        return text.cpu.class_features(np.array(contexts))
    return np.array(text.class_features(contexts))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_shared_prefix_equals_the_full_path(tiny_model: Path, template: str, backend: str) -> None:
    half, tokens, space = prompts(tiny_model, template)
    contexts = space.contexts(mx.random.normal((4, 16), key=mx.random.key(0)))
    fast = features(SharedPrefixText(half.text_model, half.text_projection, tokens), contexts, backend)
    full = FullText(half.text_model, half.text_projection, tokens).class_features(contexts)
    assert fast.shape == (4, len(NAMES), 24)
    assert np.ptp(np.array(full), axis=0).max() > 0.01  # the contexts matter: equality is not of constants
    np.testing.assert_allclose(fast, full, atol=1e-5)


def test_zero_is_zero_shot(tiny_model: Path) -> None:
    half, tokens, space = prompts(tiny_model)
    fast = SharedPrefixText(half.text_model, half.text_projection, tokens)
    texts = load(tiny_model).encode_texts([f"a photo of a {name}." for name in NAMES])
    np.testing.assert_allclose(fast.class_features(space.contexts(mx.zeros((1, 16))))[0], texts, atol=1e-5)


def test_forward_mode_passes_through_the_savings(tiny_model: Path) -> None:
    half, tokens, space = prompts(tiny_model)
    w, u = (mx.random.normal((3, 16), key=mx.random.key(n)) for n in (1, 2))
    slopes = []
    for kind in (SharedPrefixText, FullText):
        text = kind(half.text_model, half.text_projection, tokens)
        _, (slope,) = mx.jvp(lambda x, text=text: text.class_features(space.contexts(x)), [w], [u])
        slopes.append(np.array(slope))
    assert np.abs(slopes[1]).max() > 1e-3
    np.testing.assert_allclose(slopes[0], slopes[1], atol=1e-5)


def test_computed_tokens_are_the_context_and_the_suffixes(tiny_model: Path) -> None:
    half, tokens, _ = prompts(tiny_model)
    fast = SharedPrefixText(half.text_model, half.text_projection, tokens)
    # one byte is one token here; "." and EOS close every suffix, SOS is computed once a run
    letters = sum(len(name.replace(" ", "")) for name in NAMES)
    assert fast.tokens == len("aphotoofa") + letters + 2 * len(NAMES)
    assert FullText(half.text_model, half.text_projection, tokens).tokens == 77 * len(NAMES)


def test_only_a_causal_tower_takes_the_short_cut(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half, tokens, space = prompts(tiny_model)
    assert isinstance(specialise_text_tower(half.text_model, half.text_projection, tokens), SharedPrefixText)
    contexts = space.contexts(mx.random.normal((2, 16), key=mx.random.key(0)))
    causal = specialise_text_tower(half.text_model, half.text_projection, tokens).class_features(contexts)
    object.__setattr__(half.text_model.config, "causal", False)
    text = specialise_text_tower(half.text_model, half.text_projection, tokens)
    assert isinstance(text, FullText)
    assert float(mx.abs(text.class_features(contexts) - causal).max()) > 1e-3  # every position is seen now
    whole = half.text_features(mx.array([load(tiny_model).tokenizer.encode("a photo of a cat.")]))
    zero = text.class_features(space.contexts(mx.zeros((1, 16))))
    np.testing.assert_allclose(zero[0, 0], whole[0], atol=1e-5)


NAMED_ALIKE = ("great white shark", "great grey owl", "great white", "grey owl", "owl", "grey owl", "a", "great")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("block", [2, 20, 1000])
def test_shared_words_in_any_blocks_equal_the_full_path(
    tiny_model: Path, block: int, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = load_model(tiny_model, towers=("text",))
    tokens = tokenise_prompts(load(tiny_model).tokenizer, TEMPLATES[0], NAMED_ALIKE)
    space = make_space(half.text_model, tokens, dimension=16, relative_scale=20.0, projection_std=None, seed=1)
    contexts = space.contexts(mx.random.normal((3, 16), key=mx.random.key(0)))
    full = FullText(half.text_model, half.text_projection, tokens).class_features(contexts)
    monkeypatch.setattr("sharpzo_mlx.prompts.shared_prefix.pack", lambda suffixes: pack(suffixes, block))
    monkeypatch.setattr("sharpzo_mlx.prompts.cpu_pieces.ROWS", 30)  # several pieces
    text = SharedPrefixText(half.text_model, half.text_projection, tokens)
    np.testing.assert_allclose(features(text, contexts, backend), full, atol=1e-5)
    if block == 1000:
        assert text.tokens < len("aphotoofa") + sum(map(len, tokens.suffixes))


def test_each_stored_form_of_the_weights_is_read(tiny_model: Path) -> None:
    """Half-precision weights, in NumPy, give the features of the same weights in float32; so do quantised ones."""
    half, tokens, space = prompts(tiny_model)
    contexts = space.contexts(mx.random.normal((2, 16), key=mx.random.key(0)))
    model = half.text_model
    model.update(tree_map(lambda x: x.astype(mx.float16).astype(mx.float32), model.parameters()))
    exact = features(SharedPrefixText(model, half.text_projection, tokens), contexts, "numpy")
    model.update(tree_map(lambda x: x.astype(mx.float16), model.parameters()))
    stored = features(SharedPrefixText(model, half.text_projection, tokens), contexts, "numpy")
    # SOS's keys and the embeddings are summed in the stored precision
    np.testing.assert_allclose(stored, exact, atol=3e-3)
    model.update(tree_map(lambda x: x.astype(mx.float32), model.parameters()))
    nn.quantize(model.encoder, group_size=32, bits=8)
    text = SharedPrefixText(model, half.text_projection, tokens)
    graph, in_numpy = (features(text, contexts, backend) for backend in BACKENDS)
    np.testing.assert_allclose(in_numpy, graph, atol=1e-5)


def test_half_precision_stays_near(tiny_model: Path) -> None:
    _, tokens, space = prompts(tiny_model)
    contexts = space.contexts(mx.random.normal((2, 16), key=mx.random.key(0)))
    exact, half = (
        SharedPrefixText(model.text_model, model.text_projection, tokens).class_features(contexts)
        for model in (load_model(tiny_model, ("text",), dtype=dtype) for dtype in (mx.float32, mx.float16))
    )
    assert half.dtype == mx.float32
    np.testing.assert_allclose(half, exact, atol=2e-2)
