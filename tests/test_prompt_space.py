"""The prompts' tokens and the searched space: where prompts are split, what is refused, and the scale of A."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from sharpzo_mlx.clip.checkpoint import load_model
from sharpzo_mlx.clip.handle import load
from sharpzo_mlx.clip.tokenizer import Tokenizer
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.prompts.space import PromptSpace, embedding_spread, make_space
from sharpzo_mlx.prompts.tokens import tokenise_prompts


@pytest.fixture
def tokenizer(tiny_model: Path) -> Tokenizer:
    return load(tiny_model).tokenizer


def test_prompts_are_cut_at_the_class_name(tokenizer: Tokenizer) -> None:
    tokens = tokenise_prompts(tokenizer, "a photo of a {}.", ["ox", "Barn Owl"])
    for name, suffix in zip(("ox", "barn owl"), tokens.suffixes, strict=True):
        assert [tokens.sos, *tokens.prefix, *suffix] == tokenizer.encode(f"a photo of a {name}.")
    assert len(tokens.prefix) == len("aphotoofa")


@pytest.mark.parametrize(
    ("template", "names", "message"),
    [
        ("{} in the wild", ["ox"], "words before"),
        ("a photo of a{}", ["ox"], "space before"),
        ("a photo of a {}.", ["ox", "x" * 70], "shorten the name"),
    ],
)
def test_prompts_that_do_not_work_are_refused(
    tokenizer: Tokenizer, template: str, names: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        tokenise_prompts(tokenizer, template, names)


def test_contexts_are_the_projected_shift() -> None:
    initial, projection = (
        mx.random.normal((3, 4), key=mx.random.key(0)),
        mx.random.normal((12, 5), key=mx.random.key(1)),
    )
    space = PromptSpace(initial, projection)
    w = mx.random.normal((2, 5), key=mx.random.key(2))
    expected = [np.array(initial) + (np.array(projection) @ row).reshape(3, 4) for row in np.array(w)]
    np.testing.assert_allclose(space.contexts(w), np.stack(expected), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(space.contexts(mx.zeros((1, 5)))[0], initial)


def test_the_scale_comes_from_the_token_table(tiny_model: Path, tokenizer: Tokenizer) -> None:
    text_model = load_model(tiny_model, towers=("text",)).text_model
    tokens = tokenise_prompts(tokenizer, "a photo of a {}.", ["ox"])
    table = np.array(text_model.embeddings.token_embedding.weight)
    assert embedding_spread(text_model) == pytest.approx(table.std(), rel=1e-3)
    drawn = [
        make_space(text_model, tokens, dimension=400, relative_scale=3.0, projection_std=std, seed=seed).projection
        for std, seed in ((None, 0), (None, 0), (None, 1), (0.2, 0))
    ]
    # a unit vector w_j = 1 moves every entry of the context by 3 spreads
    assert float(mx.std(drawn[0])) * np.sqrt(400) == pytest.approx(3 * table.std(), rel=0.02)
    assert float(mx.std(drawn[3])) == pytest.approx(0.2, rel=0.02)
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert float(mx.max(mx.abs(drawn[0] - drawn[2]))) > 0
