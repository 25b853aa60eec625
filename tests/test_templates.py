"""Several templates: the lists that are read, their mean as class features, and runs that are tuned from it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import mlx.core as mx
import numpy as np
import pytest
from damaged_models import edit, unsign
from method_runs import small_task
from tiny_settings import SMALL, TINY

import sharpzo_mlx as sz
from sharpzo_mlx.datasets.image_set import ImageSet
from sharpzo_mlx.datasets.templates import LARGEST, PLAIN, read_templates
from sharpzo_mlx.features.extract import Features, encode
from sharpzo_mlx.objective.loss import score_calibrated, score_logits
from sharpzo_mlx.prompts.ensemble import CLASSES_AT_ONCE, check_lengths, template_features
from sharpzo_mlx.report.landscape import compute_landscape
from sharpzo_mlx.report.page import write_report
from sharpzo_mlx.runs.run import Run
from sharpzo_mlx.runs.settings_file import read_settings
from sharpzo_mlx.tuning.pipeline import tune, tune_steps
from sharpzo_mlx.tuning.problem import make_problem
from sharpzo_mlx.tuning.search import TuneStep

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
        (b"caf\xe9 {}\n", "not UTF-8 (byte 4); save the templates as UTF-8"),
        (b"a {}\n" * LARGEST, "too large, over 1 MiB; give imagenet, small or a text file"),
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


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_the_features_are_the_mean_of_the_templates(
    clip: sz.Clip, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    """With and without words before the name, in NumPy and in the graph, and however many classes go at once."""
    monkeypatch.setattr("sharpzo_mlx.prompts.ensemble.on_cpu", lambda: device == "cpu")
    templates = ("a photo of a {}.", "{} in the wild", "a very, very long text about {}", "the non-{} part")
    features = template_features(clip, templates, NAMES)
    each = [np.array(clip.encode_texts([t.replace("{}", name) for name in NAMES])) for t in templates]
    mean = np.mean(each, axis=0)
    np.testing.assert_allclose(features, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-5)
    assert features.dtype == mx.float32
    assert np.abs(np.array(features) - each[0]).max() > 0.01  # the templates matter
    for size in ("prompts.ensemble.CLASSES_AT_ONCE", "clip.batches.TEXT_BATCH"):
        monkeypatch.setattr(f"sharpzo_mlx.{size}", 2)
        np.testing.assert_allclose(template_features(clip, templates, NAMES), features, atol=1e-6)


def test_a_tower_that_is_not_causal_reads_whole_texts(tiny_model: Path, tmp_path: Path) -> None:
    folder = unsign(Path(shutil.copytree(tiny_model, tmp_path / "m")))
    edit(folder / "config.json", lambda config: config["text_config"].update(causal=False))
    clip = sz.load(folder)
    assert not clip.config.text.causal
    expected = clip.encode_texts([PLAIN.replace("{}", name) for name in NAMES])
    np.testing.assert_allclose(template_features(clip, (PLAIN,), NAMES), expected, atol=1e-5)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("template", ["{} of a {{}}.", "{}-{{}}"])
def test_memory_does_not_grow_with_classes_and_templates(
    clip: sz.Clip, monkeypatch: pytest.MonkeyPatch, template: str, device: str
) -> None:
    """What many texts need beyond few is their rows, not their layers."""
    monkeypatch.setattr("sharpzo_mlx.prompts.ensemble.on_cpu", lambda: device == "cpu")

    def peak(count: int, templates: int) -> int:
        mx.reset_peak_memory()
        names = [f"{number:04}" for number in range(count)]
        template_features(clip, [template.format(number) for number in range(10, 10 + templates)], names)
        return mx.get_peak_memory()

    few = peak(CLASSES_AT_ONCE, 1)
    assert peak(4 * CLASSES_AT_ONCE, 5) < few + 10 * 4 * CLASSES_AT_ONCE * clip.config.projection_dim * 4


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


# tuning


def logits(prompt: sz.Prompt, images: Features) -> np.ndarray:
    """The logits of a prompt's classifier."""
    return np.array(prompt.logit_scale * (images.embeddings @ prompt.class_features.T))


def test_the_search_sees_the_logits_of_the_prompt(tiny_model: Path, photos: Path, clip: sz.Clip) -> None:
    """At w = 0 the classifier is the mean itself; elsewhere losses and scores are those of the prompt that is kept."""
    task = small_task(tiny_model, photos, query_budget=1)
    config = task.config.with_settings(TINY)
    mean = template_features(clip, read_templates("small"), task.train.class_names)
    problem = make_problem(clip, task.train, task.val, config, zero_shot=mean)
    w = mx.random.normal((problem.objective.dimension,), key=mx.random.key(1))
    zero, moved = problem.prompt(mx.zeros_like(w)), problem.prompt(w)
    np.testing.assert_array_equal(zero.class_features, mean)
    np.testing.assert_array_equal(moved.zero_shot_features, mean)
    plain = make_problem(clip, task.train, task.val, config).prompt(w)
    change = np.array(plain.class_features) - np.array(plain.zero_shot_features)
    np.testing.assert_allclose(np.array(moved.class_features) - np.array(mean), change, atol=1e-6)
    for one in (zero, moved):
        expected = score_logits(mx.array(logits(one, task.train)), mx.array(task.train.labels))
        assert problem.objective.losses(one.w[None]).item() == pytest.approx(expected.loss, abs=1e-4)
        expected = score_calibrated(mx.array(logits(one, task.val)), mx.array(task.val.labels))
        assert problem.validate(one.w).accuracy == expected.accuracy
        assert problem.validate(one.w).loss == pytest.approx(expected.loss, abs=1e-4)


def test_offsets_are_added_to_those_of_the_templates(tiny_model: Path, photos: Path, clip: sz.Clip) -> None:
    task = small_task(tiny_model, photos, query_budget=1)
    config = task.config.with_settings(TINY)
    mean = template_features(clip, read_templates("small"), task.train.class_names)
    own = mx.random.normal((len(task.train.labels), len(task.train.class_names)), key=mx.random.key(2))
    problem = make_problem(clip, task.train, task.val, config, zero_shot=mean, logit_scale=3.0, offsets=own)
    expected = score_logits(3.0 * task.train.embeddings @ mean.T + own, mx.array(task.train.labels))
    w = mx.zeros((1, problem.objective.dimension))
    assert problem.objective.losses(w).item() == pytest.approx(expected.loss, abs=1e-4)


@pytest.mark.parametrize("head", ["none", "gda"])
def test_a_tuned_run_has_the_accuracies_of_its_classifier(
    clip: sz.Clip, photos: Path, tmp_path: Path, head: Literal["none", "gda"]
) -> None:
    """In `tune`, in `evaluate` and on the page, also after an interruption."""
    config = replace(sz.TuneConfig(templates="small", head=head).with_settings(SMALL), generations=20)
    steps = tune_steps(clip, photos, config, output=tmp_path / "run")
    next(event for event in steps if isinstance(event, TuneStep))
    steps.close()  # type: ignore[attr-defined]
    run = tune(clip, photos, output=tmp_path / "run", resume=True)
    whole = tune(clip, photos, config, output=tmp_path / "whole")
    np.testing.assert_array_equal(run.prompt.class_features, whole.prompt.class_features)
    mean = template_features(clip, run.record.templates, run.record.class_names)
    np.testing.assert_allclose(run.prompt.zero_shot_features, mean, atol=1e-6)
    assert np.abs(np.array(run.prompt.class_features) - np.array(mean)).max() > 1e-3
    rows = run.record.images.by_split()["test"]
    images = clip.encode_images([photos / path for path, _ in rows])
    labels = mx.array([label for _, label in rows])
    assert run.results.test == score_logits(run.prompt.logits(images), labels).accuracy
    assert run.results.zero_shot == score_logits(images @ mean.T, labels).accuracy
    every = [(path, label) for label, name in enumerate(run.record.class_folders) for path in (photos / name).iterdir()]
    images, labels = clip.encode_images([path for path, _ in every]), mx.array([label for _, label in every])
    result = sz.evaluate(run, [photos]).folders[0]
    assert result.tuned == score_logits(run.prompt.logits(images), labels).accuracy
    assert result.zero_shot == score_logits(images @ mean.T, labels).accuracy
    assert "zero-shot is the mean of 8 templates" in write_report(run, clip=clip).read_text()


def test_the_landscape_is_that_of_the_classifier(clip: sz.Clip, photos: Path, tmp_path: Path) -> None:
    config = sz.TuneConfig(templates="small").with_settings({**SMALL, "steps": 0})
    run = tune(clip, photos, config, output=tmp_path / "run")
    rows = run.record.images.by_split()["train"]
    images = ImageSet(tuple(photos / p for p, _ in rows), tuple(c for _, c in rows), run.record.class_names, ())
    train = encode(clip, images)
    middle = compute_landscape(run, clip, train).losses[4, 4]  # the result itself
    expected = score_logits(mx.array(logits(run.prompt, train)), mx.array(train.labels))
    assert middle == pytest.approx(expected.loss, abs=1e-4)
