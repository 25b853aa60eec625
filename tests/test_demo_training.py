"""The script that trained the demonstration's model: its parts do what its documentation says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import sharpzo_mlx as sz
from sharpzo_mlx.demo import LIVING
from sharpzo_mlx.demo.figures import FIGURES
from sharpzo_mlx.rng import generator_for


@pytest.fixture(scope="module")
def script(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("train_demo_model")


@pytest.fixture(scope="module")
def pictures(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("demo_pictures")


def test_no_photograph_of_what_lives_and_no_style_of_the_demonstration(pictures: ModuleType) -> None:
    chosen = {pictures.choose(generator_for(0, "choice", index)) for index in range(1500)}
    assert {name for name, _ in chosen} == set(FIGURES)
    assert {style for name, style in chosen if name in LIVING} == {"drawing", "poster", "sketch"}
    assert {style for _, style in chosen} == {"drawing", "poster", "sketch", "photo"}


def test_captions_say_what_is_there(pictures: ModuleType) -> None:
    subject = pictures.Subject("umbrella", "poster", "orange", "sand", True)
    said = {pictures.caption(subject, generator_for(0, "words", index)) for index in range(300)}
    assert {"a picture of an umbrella.", "a poster of a small orange umbrella on sand."} <= said
    assert "a poster of an orange umbrella." in said
    assert all("umbrella" in words and " a o" not in words and " an s" not in words for words in said)


def test_the_tokenizer_learns_whole_words(script: ModuleType) -> None:
    sentences = ["a photo of a purple butterfly on a table.", "a sketch of an umbrella."] * 3
    tokenizer = script.learn_tokenizer(sentences)
    assert len(tokenizer.encode_words("an umbrella on a purple table.")) == 7
    assert len(tokenizer.encode_words("zebra")) > 1
    assert script.learn_tokenizer(sentences).to_json() == tokenizer.to_json()


def test_a_few_steps_learn_and_the_folder_loads(script: ModuleType, pictures: ModuleType, tmp_path: Path) -> None:
    painted = [pictures.paint_one(index, 0) for index in range(8)]
    subjects, pixels = [subject for subject, _ in painted], np.stack([image for _, image in painted])
    tokenizer = script.learn_tokenizer([pictures.caption(s, generator_for(0, i)) for i, s in enumerate(subjects)])
    config = script.make_config(tokenizer)
    options = script.Options(pictures=8, steps=20, batch=8, rate=1e-3, seed=0, output=tmp_path / "m")
    model = script.CLIPModel(config)
    script.initialise(model, 0)
    examples = script.batches(script.Pictures(subjects, pixels), tokenizer, options, config)
    losses = [loss for _, loss in script.train(model, examples, steps=20, rate=1e-3)]
    assert abs(losses[0] - np.log(8)) < 1.5
    assert np.mean(losses[-5:]) < losses[0] - 0.3
    script.save(model, config, tokenizer, output=options.output, options=options)
    features = np.array(sz.load(options.output).encode_pixels(script.prepare(pixels, config.preprocessor)))
    kept = np.array(model.image_features(script.prepare(pixels, config.preprocessor)))
    np.testing.assert_allclose(features, kept, atol=0.02)  # float16 weights
