"""A head from end to end: the sum of both parts, its file, and that every command uses it."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest
from method_runs import finished
from tiny_settings import TINY

import sharpzo_mlx as sz
from sharpzo_mlx.cli import main
from sharpzo_mlx.comparison.methods import registry
from sharpzo_mlx.comparison.methods.method import Task
from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.features.extract import Features, encode
from sharpzo_mlx.heads import head
from sharpzo_mlx.heads.closed_form import fit_discriminant
from sharpzo_mlx.heads.ensemble import Shares, choose_shares_by_accuracy, choose_shares_by_loss
from sharpzo_mlx.heads.head import join_head, make_head
from sharpzo_mlx.options import declared
from sharpzo_mlx.report.analysis import analyse_run
from sharpzo_mlx.runs.prompt_file import read_prompt, write_prompt
from sharpzo_mlx.runs.record import HeadShares
from sharpzo_mlx.runs.resume import open_run
from sharpzo_mlx.runs.run import Run
from sharpzo_mlx.tuning.pipeline import tune

SMALL: dict[str, Any] = {
    **TINY, "shots": 4, "generations": 8, "steps": 0, "head": "gda",
}  # fmt: skip


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of fifteen images that are told apart with errors: colours that overlap."""
    from PIL import Image

    root, rng = tmp_path_factory.mktemp("hard") / "photos", np.random.default_rng(1)
    for name, colour in (("cat", (150, 110, 100)), ("dog", (110, 150, 105)), ("barn owl", (105, 110, 150))):
        (root / name).mkdir(parents=True)
        for number in range(15):
            pixels = np.array(colour) + rng.integers(-60, 60, 3) + rng.integers(-40, 40, (20, 26, 3))
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def runs(tiny_model: Path, hard: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[sz.Run, sz.Run]:
    """The same run with a head and without."""
    folder, clip = tmp_path_factory.mktemp("runs"), sz.load(tiny_model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHARPZO_MLX_CACHE", str(folder / "cache"))
        one = tune(clip, hard, sz.TuneConfig().with_settings(SMALL), output=folder / "head")
        plain = tune(clip, hard, sz.TuneConfig().with_settings({**SMALL, "head": "none"}), output=folder / "plain")
    return Run.load(one.folder), Run.load(plain.folder)


def split(run: sz.Run, name: str) -> Features:
    _, images = open_run(sz.load(run.model_folder), Path(run.record.dataset), None, folder=run.folder, resume=True)
    return encode(sz.load(run.model_folder), images[name])


def expected_logits(run: sz.Run, x: np.ndarray) -> np.ndarray:
    """From the file alone, by the formula of docs/reference/files.md."""
    loaded = mx.load(str(run.folder / "prompt.safetensors"), return_metadata=True)
    arrays, words = cast("tuple[dict[str, mx.array], dict[str, str]]", loaded)
    text = float(words["logit_scale"]) * x @ np.array(arrays["class_features"]).T
    result: np.ndarray = text + x @ np.array(arrays["head_weight"]).T + np.array(arrays["head_bias"])
    return result


def test_the_words_are_those_without_a_head(runs: tuple[sz.Run, sz.Run]) -> None:
    joined, plain = runs
    for name in ("context", "w", "class_features", "zero_shot_features"):
        np.testing.assert_array_equal(getattr(joined.prompt, name), getattr(plain.prompt, name))
    assert plain.prompt.head is None
    assert joined.results.test_text == plain.results.test
    assert joined.results.val_text == plain.results.val
    assert joined.results.zero_shot == plain.results.zero_shot
    assert {"test_text", "val_text", "head"} & plain.results.to_json().keys() == set()


def test_the_head_is_the_sum_of_both_parts(runs: tuple[sz.Run, sz.Run]) -> None:
    run, plain = runs
    train, val, test = (split(run, name) for name in ("train", "val", "test"))
    fitted = fit_discriminant(np.array(train.embeddings), train.labels, 3)
    text = np.array(plain.prompt.logits(val.embeddings))
    shares = choose_shares_by_loss(text, fitted.logits(np.array(val.embeddings)), val.labels)
    assert shares.image > 0, "a case in which the head says something"
    assert run.results.head == HeadShares("gda", text=shares.text, image=shares.image)
    x = np.array(test.embeddings)
    wanted = shares.text * np.array(plain.prompt.logits(test.embeddings)) + shares.image * fitted.logits(x)
    np.testing.assert_allclose(run.prompt.logits(test.embeddings), wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(expected_logits(run, x), wanted, rtol=1e-4, atol=1e-4)
    assert run.results.test == pytest.approx((wanted.argmax(axis=1) == test.labels).mean())


def test_the_ends_are_the_parts(runs: tuple[sz.Run, sz.Run]) -> None:
    run, plain = runs
    train, test = split(run, "train"), split(run, "test")
    fitted = fit_discriminant(np.array(train.embeddings), train.labels, 3)
    words = dataclasses.replace(plain.prompt, head=make_head(plain.prompt, "gda", fitted, Shares(1.0, 0.0)))
    np.testing.assert_array_equal(words.logits(test.embeddings), plain.prompt.logits(test.embeddings))
    alone = dataclasses.replace(plain.prompt, head=make_head(plain.prompt, "gda", fitted, Shares(0.0, 1.0)))
    wanted = fitted.logits(np.array(test.embeddings))
    np.testing.assert_allclose(alone.logits(test.embeddings), wanted, rtol=1e-4, atol=1e-4)


def test_the_images_of_the_test_play_no_part(
    runs: tuple[sz.Run, sz.Run], tiny_model: Path, hard: Path, tmp_path: Path
) -> None:
    """Other test images, the same head."""
    run, _ = runs
    copy = tmp_path / "photos"
    shutil.copytree(hard, copy)
    for path, _label in run.record.images.by_split()["test"]:
        shutil.copyfile(hard / run.record.images.train[0][0], copy / path)
    other = tune(sz.load(tiny_model), copy, sz.TuneConfig().with_settings(SMALL), output=tmp_path / "run")
    assert other.results.test != run.results.test
    assert isinstance(other.prompt.head, head.Head)
    assert isinstance(run.prompt.head, head.Head)
    np.testing.assert_array_equal(other.prompt.head.weight, run.prompt.head.weight)
    np.testing.assert_array_equal(other.prompt.head.bias, run.prompt.head.bias)


def test_it_survives_its_file_and_old_files_have_none(runs: tuple[sz.Run, sz.Run], tmp_path: Path) -> None:
    run, plain = runs
    write_prompt(tmp_path / "p.safetensors", run.prompt)
    again = read_prompt(tmp_path / "p.safetensors")
    x = mx.random.normal((5, 24), key=mx.random.key(0))
    np.testing.assert_array_equal(again.logits(x), run.prompt.logits(x))
    assert isinstance(again.head, head.Head)
    assert isinstance(run.prompt.head, head.Head)
    assert (again.head.kind, again.head.text_share) == ("gda", run.prompt.head.text_share)
    # what was written before there were heads: neither the option nor the arrays
    old = tmp_path / "old"
    shutil.copytree(plain.folder, old)
    record = json.loads((old / "run.json").read_text())
    del record["config"]["head"]
    (old / "run.json").write_text(json.dumps(record))
    loaded = Run.load(old)
    assert loaded.config.head == "none"
    np.testing.assert_array_equal(loaded.prompt.logits(x), plain.prompt.text_logits(x))


def test_evaluate_predict_and_the_page_use_it(
    runs: tuple[sz.Run, sz.Run], hard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = runs
    clip = sz.load(run.model_folder)
    for number, (path, label) in enumerate(run.record.images.by_split()["test"]):
        place = tmp_path / "test" / run.prompt.folders[label] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(hard / path, place)
    (result,) = sz.evaluate(run, tmp_path / "test").folders
    assert (result.tuned, result.zero_shot) == (run.results.test, run.results.zero_shot)

    image = hard / run.record.images.by_split()["test"][0][0]
    logits = expected_logits(run, np.array(clip.encode_images([image])))[0]
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    (prediction,) = sz.predict(run, image, top=3)
    found = dict(prediction.labels)
    np.testing.assert_allclose([found[name] for name in run.prompt.class_names], shares, atol=1e-5)

    looked = analyse_run(run, clip, landscape=False)
    assert looked.confusion.trace() / looked.confusion.sum() == pytest.approx(run.results.test)

    # a part of the classes: the head is cut to them as the words are
    shutil.rmtree(tmp_path / "test" / "cat")
    (own,) = sz.evaluate(run, tmp_path / "test", scope="own").folders
    names = list(run.prompt.class_names)
    kept = [names.index(name) for name in ("barn owl", "dog")]
    paths = sorted((tmp_path / "test").glob("*/*.png"))
    among = expected_logits(run, np.array(clip.encode_images(paths)))[:, kept]
    labels = [names.index(path.parent.name) for path in paths]
    assert own.tuned == pytest.approx(np.mean(np.array(kept)[among.argmax(axis=1)] == labels))

    assert main.run(["evaluate", str(run.folder), str(tmp_path / "test")]) == 0
    assert re.search(r"words' logits x [\d.e-]+ \+ those of gda .* x [\d.e-]+", capsys.readouterr().out)
    page = sz.write_report(run, output=tmp_path / "page.html", landscape=False).read_text()
    assert "words alone" in page
    assert "--head gda" in page


def test_tune_says_both(
    runs: tuple[sz.Run, sz.Run], tiny_model: Path, hard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = runs
    options = [f"--set={name}={value}" for name, value in SMALL.items()]
    words = ["tune", str(hard), "--model", str(tiny_model), "--no-report", *options]
    assert main.run([*words, "--output", str(tmp_path / "a")]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("test, words alone")]
    assert run.results.test_text is not None
    assert f"{100 * run.results.test_text:.1f} %" in row
    assert main.run([*words, "--output", str(tmp_path / "b"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["test"] == run.results.test
    assert record["test_text"] == run.results.test_text
    assert record["head"] == run.results.to_json()["head"]


def test_an_end_that_was_cut_off_goes_on_to_the_same_head(
    runs: tuple[sz.Run, sz.Run], tiny_model: Path, hard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the head's file and run.json: the whole end is done again."""
    run, _ = runs
    clip = sz.load(tiny_model)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sharpzo_mlx.tuning.pipeline.costs", killed)
        with pytest.raises(KeyboardInterrupt):
            tune(clip, hard, sz.TuneConfig().with_settings(SMALL), output=tmp_path / "run")
    assert not Run.load(tmp_path / "run").finished
    again = tune(clip, hard, output=tmp_path / "run", resume=True)
    assert isinstance(again.prompt.head, head.Head)
    assert isinstance(run.prompt.head, head.Head)
    np.testing.assert_array_equal(again.prompt.head.weight, run.prompt.head.weight)
    assert dataclasses.replace(again.results, **COSTS) == dataclasses.replace(run.results, **COSTS)


COSTS: dict[str, Any] = {"seconds": 0.0, "peak_memory_mb": 0.0, "process_memory_mb": 0.0}


def test_every_head_that_can_be_asked_for_is_there() -> None:
    (one,) = [one for one in declared(TuneConfig) if one.name == "head"]
    assert set(one.choices) == {"none", *head.FITS}


@pytest.mark.parametrize("name", ["ncm", "ridge", "gda", "sharpzo-gda"])
def test_methods_of_a_comparison(name: str, tiny_model: Path, runs: tuple[sz.Run, sz.Run]) -> None:
    run, plain = runs
    train, val, test = (split(run, part) for part in ("train", "val", "test"))
    config = dataclasses.replace(run.config, head="none")
    task = Task(sz.load(tiny_model), train, val, config, query_budget=48)
    method = registry.method(name)
    steps = method.start(task, method.tuned)
    progress = []
    while True:
        try:
            progress.append(next(steps))
        except StopIteration as end:
            classifier = end.value
            break
    logits = np.array(classifier.logits(test))
    assert logits.shape == (len(test.labels), 3)
    last = progress[-1]
    assert last.score.accuracy == pytest.approx((np.array(classifier.logits(val)).argmax(axis=1) == val.labels).mean())
    assert last.queries == (48 if name == "sharpzo-gda" else 0)
    if name == "gda":  # the head on the words of zero-shot
        zero_shot = dataclasses.replace(plain.prompt, class_features=plain.prompt.zero_shot_features)
        wanted = join_head(zero_shot, "gda", train, val).logits(test.embeddings)
        np.testing.assert_allclose(logits, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("name", "speaker"), [("gda", "zero-shot"), ("sharpzo-gda", "sharpzo")])
def test_published_gda_counts_the_words_once(
    name: str, speaker: str, tiny_model: Path, runs: tuple[sz.Run, sz.Run]
) -> None:
    """The words of zero-shot or of the same search; the closed form by the power of ten that gets most right."""
    run, _ = runs
    train, val, test = (split(run, part) for part in ("train", "val", "test"))
    task = Task(sz.load(tiny_model), train, val, dataclasses.replace(run.config, head="none"), query_budget=48)
    _, words = finished(registry.method(speaker).start(task, registry.method(speaker).tuned))
    zero_shot = dataclasses.replace(run.prompt, class_features=run.prompt.zero_shot_features)
    away = np.abs(np.array(words.logits(test)) - np.array(zero_shot.text_logits(test.embeddings))).max()
    assert (away > 0.1) == (speaker == "sharpzo")
    _, found = finished(registry.method(name).start(task, registry.method(name).published))
    fitted = fit_discriminant(np.array(train.embeddings), train.labels, 3)
    shares = choose_shares_by_accuracy(np.array(words.logits(val)), fitted.logits(np.array(val.embeddings)), val.labels)
    wanted = np.array(words.logits(test)) + shares.image * fitted.logits(np.array(test.embeddings))
    np.testing.assert_allclose(found.logits(test), wanted, rtol=1e-4, atol=1e-4)
