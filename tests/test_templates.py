"""Several templates: the lists that are read, their mean as class features, and the run that remembers them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from method_runs import small_task
from tiny_settings import TINY

import sharpzo_mlx as sz
from sharpzo_mlx.datasets.templates import LARGEST, PLAIN, read_templates
from sharpzo_mlx.prompts.ensemble import check_lengths, template_features
from sharpzo_mlx.runs.run import Run
from sharpzo_mlx.runs.settings_file import read_settings
from sharpzo_mlx.tuning.pipeline import tune

NAMES = ("cat", "barn owl", "dog")
NO_SEARCH = {**TINY, "shots": 4, "generations": 0, "steps": 0}


@pytest.fixture
def clip(tiny_model: Path) -> sz.Clip:
    return sz.load(tiny_model)


# lists


def test_the_published_lists_are_whole() -> None:
    every, few = read_templates("imagenet"), read_templates("small")
    assert (len(every), len(set(every))) == (80, 80)
    assert (every[0], every[39], every[-1]) == ("a bad photo of a {}.", PLAIN, "a tattoo of the {}.")
    assert few == (
        "itap of a {}.", "a bad photo of the {}.", "a origami {}.", "a photo of the large {}.",
        "a {} in a video game.", "art of the {}.", "a photo of the small {}.",
    )  # fmt: skip
    assert set(few) <= set(every)


def test_a_list_of_ones_own(tmp_path: Path) -> None:
    """A byte-order mark, Windows' line ends, comments, blank lines and repetitions change nothing."""
    path = tmp_path / "mine.txt"
    path.write_bytes("\ufeff# of {} and {}\r\n\r\n  ein Bild: {}\r\n{} über alles\r\nein Bild: {}\r\n".encode())
    assert read_templates(str(path)) == ("ein Bild: {}", "{} über alles")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a {}.\n\nno place\n", "line 3 'no place': write {} once, where the class name goes"),
        (b"{} or {}\n", "line 1 '{} or {}': write {} once, where the class name goes"),
        (b"# nothing\n\n", "no templates; write one a line, with {} for the class name"),
        (b"", "no templates; write one a line, with {} for the class name"),
        (b"caf\xe9 {}\n", "not UTF-8 text; save the templates as UTF-8"),
        (b"a {}\n" * LARGEST, "too large for a list of templates; write one a line"),
        (None, "no such file of templates; give imagenet, small or a file"),
    ],
)
def test_a_list_that_cannot_be_used_is_one_line(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(sz.UserError) as caught:
        read_templates(str(path))
    assert str(caught.value) == f"{path}: {message}"


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (("pipe", "not a regular file"), (".", "is a directory"), ("a\0b", "null byte")):
        with pytest.raises(sz.UserError, match=f"{reason}; give imagenet, small or a text file"):
            read_templates(str(tmp_path / name))
    with pytest.raises(sz.UserError, match="an empty path"):
        read_templates("")


# features


def test_one_template_gives_the_zero_shot_features_of_a_prompt(tiny_model: Path, photos: Path, clip: sz.Clip) -> None:
    problem = small_task(tiny_model, photos, query_budget=1).problem(TINY)
    zero = problem.prompt(mx.zeros(problem.objective.space.dimension)).zero_shot_features
    np.testing.assert_allclose(template_features(clip, (PLAIN,), problem.class_names), zero, atol=1e-5)


def test_the_features_are_the_mean_of_the_templates(clip: sz.Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    templates = ("a photo of a {}.", "{} in the wild", "a very, very long text about {}")
    features = template_features(clip, templates, NAMES)
    each = [np.array(clip.encode_texts([t.replace("{}", name) for name in NAMES])) for t in templates]
    mean = np.mean(each, axis=0)
    np.testing.assert_allclose(features, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-5)
    assert features.dtype == mx.float32
    assert np.abs(np.array(features) - each[0]).max() > 0.01  # the templates matter
    monkeypatch.setattr("sharpzo_mlx.prompts.ensemble.TEXT_BATCH", 2)
    np.testing.assert_allclose(template_features(clip, templates, NAMES), features, atol=1e-6)


def test_memory_does_not_grow_with_classes_and_templates(clip: sz.Clip) -> None:
    """What many texts need beyond few is their rows, not their layers."""

    def peak(count: int, templates: int) -> int:
        mx.reset_peak_memory()
        names = [f"{number:04}" for number in range(count)]
        template_features(clip, [f"{number} of a {{}}." for number in range(10, 10 + templates)], names)
        return mx.get_peak_memory()

    few = peak(64, 1)
    assert peak(640, 5) < few + 10 * 640 * clip.config.projection_dim * 4


def test_a_text_that_is_too_long_is_named(clip: sz.Clip) -> None:
    long = "many words " * 10 + "{}"
    for use in (template_features, lambda clip, *texts: check_lengths(clip.tokenizer, *texts)):
        with pytest.raises(sz.UserError, match=r"the text 'many words .* tokens, the model takes 75"):
            use(clip, ("a {}", long), NAMES)


# runs


def test_a_run_remembers_its_templates(clip: sz.Clip, photos: Path, tmp_path: Path) -> None:
    """The tuned template stands first, and neither going on nor reading the run needs the file."""
    path = tmp_path / "mine.txt"
    path.write_text("art of the {}.\nmy {}.\n")
    config = sz.TuneConfig(template="my {}.", templates=str(path)).with_settings(NO_SEARCH)
    tune(clip, photos, config, output=tmp_path / "run")
    path.unlink()
    run = Run.load(tmp_path / "run")
    assert run.record.templates == ("my {}.", "art of the {}.")
    assert run.config.templates == read_settings(run.folder / "config.toml")["templates"] == str(path)
    run.record = replace(run.record, status="interrupted")
    run.save()
    again = tune(clip, photos, config, output=run.folder, resume=True)
    assert again.record.templates == run.record.templates
    assert again.finished
    with pytest.raises(sz.UserError, match=f"finished with templates {path}, not small"):
        tune(clip, photos, replace(config, templates="small"), output=run.folder, resume=True)
    with pytest.raises(sz.UserError, match=r"mine\.txt: no such file"):
        tune(clip, photos, config, output=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_settings_of_a_run_give_the_same_templates(clip: sz.Clip, photos: Path, tmp_path: Path) -> None:
    first = tune(clip, photos, sz.TuneConfig(templates="small").with_settings(NO_SEARCH), output=tmp_path / "a")
    settings = sz.TuneConfig().with_settings(read_settings(first.folder / "config.toml"))
    second = tune(clip, photos, settings, output=tmp_path / "b")
    assert first.record.templates == second.record.templates == (PLAIN, *read_templates("small"))
    plain = tune(clip, photos, sz.TuneConfig().with_settings(NO_SEARCH), output=tmp_path / "c")
    assert plain.record.templates == ()


def test_what_cannot_work_is_refused_before_work(
    tiny_model: Path, photos: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("many words " * 10 + "{}\n")
    words = ["tune", photos, "--model", tiny_model, "--output", tmp_path / "run", "--templates"]
    assert "tokens, the model takes 75" in refused(*words, path)
    assert "large: no such file of templates; give imagenet, small or a file" in refused(*words, "large")
    assert not (tmp_path / "run").exists()
    with pytest.raises(sz.UserError, match="compared with one template"):
        sz.compare(sz.load(tiny_model), photos, sz.TuneConfig(templates="small"))
