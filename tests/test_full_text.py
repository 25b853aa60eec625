"""The path of text towers without a mask: NumPy, the graph and whole texts agree, and memory stays within the plan."""

from __future__ import annotations

import gc
import tracemalloc

import mlx.core as mx
import numpy as np
import pytest
from siglip_checkpoint import CONFIG, TOWER, write_siglip

from sharpzo_mlx.clip.checkpoint import load_model
from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.handle import Clip, load
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.convert import convert
from sharpzo_mlx.objective.backend import BackendName
from sharpzo_mlx.objective.chunks import pieces_bytes
from sharpzo_mlx.objective.objective import Objective
from sharpzo_mlx.prompts.full_text import FullText
from sharpzo_mlx.prompts.space import PromptSpace, make_space
from sharpzo_mlx.prompts.text_features import specialise_text_tower
from sharpzo_mlx.prompts.tokens import PromptTokens, tokenise_prompts

NAMES = ("cat", "ox", "barn owl", "tench", "a")
TEMPLATES = ("a photo of a {}.", "a {}", "a picture of a {}, far away")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    root = tmp_path_factory.mktemp("siglip")
    return load(convert(write_siglip(root / "theirs"), root / "m").folder)


def specialise(clip: Clip, template: str = TEMPLATES[0]) -> tuple[FullText, PromptSpace]:
    half = load_model(clip.folder, towers=("text",))
    tokens = tokenise_prompts(clip.tokenizer, template, NAMES)
    assert tokens.sos is None
    space = make_space(half.text_model, tokens, dimension=16, relative_scale=20.0, projection_std=None, seed=1)
    text = specialise_text_tower(half.text_model, half.text_projection, tokens)
    assert isinstance(text, FullText)
    return text, space


@pytest.mark.parametrize("template", TEMPLATES)
def test_zero_is_zero_shot_in_both(clip: Clip, template: str) -> None:
    text, space = specialise(clip, template)
    whole = clip.encode_texts([template.replace("{}", name) for name in NAMES])
    start = space.contexts(mx.zeros((1, 16)))
    assert text.cpu is not None
    np.testing.assert_allclose(np.array(text.class_features(start)[0]), np.array(whole), atol=1e-5)
    np.testing.assert_allclose(text.cpu.class_features(np.array(start))[0], np.array(whole), atol=1e-5)


@pytest.mark.parametrize("rows", [24, 60, 10_000])
def test_numpy_equals_the_graph(clip: Clip, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr("sharpzo_mlx.prompts.cpu_pieces.ROWS", rows)
    text, space = specialise(clip)
    contexts = space.contexts(mx.random.normal((4, 16), key=mx.random.key(0)))
    graph = np.array(text.class_features(contexts))
    assert text.cpu is not None
    assert np.ptp(graph, axis=0).max() > 0.05  # the contexts matter
    np.testing.assert_allclose(text.cpu.class_features(np.array(contexts)), graph, atol=1e-5)


def test_a_tower_that_is_read_where_the_text_ends(clip: Clip) -> None:
    """A CLIP without a mask has a start token, and is read at the end token."""
    text = TOWER | {"vocab_size": 60, "max_position_embeddings": 12, "causal": False, "pad_token_id": 0}
    config = CLIPConfig.from_dict(
        {"model_type": "clip", "projection_dim": 8, "text_config": text | {"bos_token_id": 58, "eos_token_id": 59}}
    )
    model = CLIPModel(config, ("text",))
    model.text_model.embeddings.token_embedding.weight = mx.random.normal((60, 32), key=mx.random.key(2))
    tokens = PromptTokens(58, (4, 5), ((6, 59), (7, 8, 9, 59)))
    specialised = FullText(model.text_model, model.text_projection, tokens)
    context = model.text_model.embed(mx.array([[4, 5]]))
    ids = mx.array([[58, 4, 5, 6, 59, 0, 0], [58, 4, 5, 7, 8, 9, 59]])
    whole = np.array(model.text_features(ids))
    assert specialised.cpu is not None
    np.testing.assert_allclose(np.array(specialised.class_features(context)[0]), whole, atol=1e-5)
    np.testing.assert_allclose(specialised.cpu.class_features(np.array(context))[0], whole, atol=1e-5)


def make_objective(clip: Clip, backend: BackendName, budget: int | None = None) -> Objective:
    text, space = specialise(clip)
    images = mx.random.normal((30, 32), key=mx.random.key(3))
    images = images / mx.linalg.norm(images, axis=-1, keepdims=True)
    labels = [n % len(NAMES) for n in range(30)]
    return Objective(text, space, images, labels, logit_scale=12.0, memory_budget=budget, backend=backend)


def test_losses_and_slopes_agree(clip: Clip) -> None:
    w, u = (mx.random.normal((3, 16), key=mx.random.key(n)) for n in (4, 5))
    graph, numpy = (make_objective(clip, name) for name in ("graph", "numpy"))
    assert numpy.backend.piece_sizes is not None
    np.testing.assert_allclose(np.array(numpy.losses(w)), np.array(graph.losses(w)), atol=1e-5)
    for ours, theirs in zip(numpy.jvp(w, u), graph.jvp(w, u), strict=True):
        np.testing.assert_allclose(np.array(ours), np.array(theirs), atol=1e-4)


def test_the_plan_covers_what_numpy_takes(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharpzo_mlx.prompts.cpu_pieces.ROWS", 96)
    sizes = make_objective(clip, "numpy").backend.piece_sizes
    assert sizes is not None
    one = pieces_bytes(sizes)
    objective = make_objective(clip, "numpy", 4 * one)
    assert objective.chunk > 50
    w = mx.zeros((objective.chunk, 16))
    mx.eval(objective.losses(w[:1]))
    tracemalloc.start()
    objective.losses(w)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert one / 3 < peak < 4.4 * one


def test_the_plan_covers_what_the_graph_takes(clip: Clip) -> None:
    budget = 40 << 20
    objective = make_objective(clip, "graph", budget)
    w = mx.zeros((objective.chunk, 16))
    mx.eval(objective.losses(w))
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(objective.losses(w))
    assert budget / 5 < mx.get_peak_memory() - before < 1.1 * budget


def test_nothing_of_the_token_table_stays() -> None:
    words = 100_000
    config = CLIPConfig.from_dict(CONFIG | {"text_config": CONFIG["text_config"] | {"vocab_size": words}})
    gc.collect()
    before = mx.get_active_memory()
    model = CLIPModel(config, ("text",))
    mx.eval(model.parameters())
    table = 4 * words * 32
    assert mx.get_active_memory() - before > table
    text = FullText(model.text_model, model.text_projection, PromptTokens(None, (5, 6), ((7, 1), (8, 9, 1))))
    del model
    gc.collect()
    assert mx.get_active_memory() - before < table / 20
    assert text.class_features(mx.zeros((1, 2, 32))).shape == (1, 2, 32)
