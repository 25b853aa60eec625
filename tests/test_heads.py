"""A head from end to end: what a run with one holds, how it is resumed, and that every command uses it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from painted_data import paint_overlapping
from plain_logits import classify, openings, read_file
from tiny_settings import TINY

import sharpzo_mlx as sz
from sharpzo_mlx.cli import main
from sharpzo_mlx.features.extract import Features, encode
from sharpzo_mlx.heads.head import Head
from sharpzo_mlx.report.analysis import analyse_run
from sharpzo_mlx.runs.prompt_file import read_prompt
from sharpzo_mlx.runs.resume import open_run
from sharpzo_mlx.runs.run import Run
from sharpzo_mlx.runs.step_log import read_steps
from sharpzo_mlx.tuning.pipeline import tune, tune_steps
from sharpzo_mlx.tuning.search import TuneStep

FOUR = sz.TuneConfig(shots=4).with_settings(TINY)  # the default: a head, and the words tuned beside it
STILL = dataclasses.replace(FOUR, steps=0)
FILE = "prompt.safetensors"
COSTS: dict[str, Any] = {"seconds": 0.0, "peak_memory_mb": 0.0, "process_memory_mb": 0.0}


@pytest.fixture(scope="module", autouse=True)
def generous() -> Iterator[None]:
    """Words are kept for less than usual, so that a run of few small images has some."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sharpzo_mlx.tuning.beside_head.ERRORS", 1.0)
        yield


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint_overlapping(tmp_path_factory.mktemp("hard") / "photos")


@pytest.fixture
def clip(tiny_model: Path) -> sz.Clip:
    return sz.load(tiny_model)


@pytest.fixture(scope="module")
def runs(tiny_model: Path, hard: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[sz.Run, sz.Run]:
    """A run whose words were tuned beside the head, and the same without a search."""
    folder, clip = tmp_path_factory.mktemp("runs"), sz.load(tiny_model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHARPZO_MLX_CACHE", str(folder / "cache"))
        made = [tune(clip, hard, c, output=folder / name) for name, c in (("tuned", FOUR), ("still", STILL))]
    return Run.load(made[0].folder), Run.load(made[1].folder)


def split(run: sz.Run, name: str) -> Features:
    _, images = open_run(sz.load(run.model_folder), Path(run.record.dataset), None, folder=run.folder, resume=True)
    return encode(sz.load(run.model_folder), images[name])


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float((logits.argmax(axis=1) == labels).mean())


def test_the_formula_of_the_file_is_the_prompts(runs: tuple[sz.Run, sz.Run]) -> None:
    for run in runs:
        test = split(run, "test")
        x = np.array(test.embeddings)
        opening = openings(run.folder, x)
        assert opening.min() < 0.95 < opening.max()  # some of it open, some less
        np.testing.assert_allclose(run.prompt.logits(test.embeddings), classify(run.folder, x), rtol=1e-4, atol=1e-4)
        assert run.results.test == accuracy(classify(run.folder, x), test.labels)
        assert run.results.zero_shot == accuracy(classify(run.folder, x, tuned=False), test.labels)
        assert run.results.test > run.results.zero_shot


def test_far_from_the_labelled_images_the_answer_is_that_of_zero_shot(runs: tuple[sz.Run, sz.Run]) -> None:
    """Also where the words were tuned: they are part of what was learned."""
    for run in runs:
        far = -3 * split(run, "train").embeddings  # farther than any image
        prompt = run.prompt
        assert isinstance(prompt.head, Head)
        assert np.array(prompt.head.opening(far)).max() < 1e-9
        np.testing.assert_allclose(prompt.logits(far), prompt.zero_shot_logits(far), rtol=1e-6)


def test_a_head_comes_back_from_its_file_bit_for_bit(clip: sz.Clip, hard: Path, tmp_path: Path) -> None:
    made = tune(clip, hard, STILL, output=tmp_path / "run").prompt
    again = read_prompt(tmp_path / "run" / FILE)
    assert isinstance(made.head, Head)
    assert isinstance(again.head, Head)
    for one, other in ((made, again), (made.head, again.head), (made.head.guard, again.head.guard)):
        for item in dataclasses.fields(one):
            a, b = getattr(one, item.name), getattr(other, item.name)
            if isinstance(a, mx.array):
                assert (a.dtype, a.shape) == (b.dtype, b.shape)
                np.testing.assert_array_equal(a, b, err_msg=item.name)
            elif item.name not in ("head", "guard"):
                assert a == b, item.name


def test_run_json_says_what_the_head_is_made_of(runs: tuple[sz.Run, sz.Run]) -> None:
    for run, kept in zip(runs, (True, False), strict=True):
        arrays, words = read_file(run.folder)
        head = run.results.head
        assert head is not None
        assert (head.kind, words["head"]) == ("gda", "gda")
        shares = [float(words[f"{name}_share"]) for name in ("text", "image", "named")]
        assert [head.text, head.image, head.named] == shares
        assert min(shares) > 0
        assert head.words_kept == bool(np.any(arrays["w"] != 0)) == kept
        moved = np.abs(arrays["class_features"] - arrays["zero_shot_features"]).max()
        assert (moved > 1e-3) == kept
        test = split(run, "test")
        assert run.results.test_text == accuracy(np.array(run.prompt.text_logits(test.embeddings)), test.labels)
    tuned, still = (run.results.head for run in runs)
    assert tuned is not None
    assert tuned.words_gain is not None
    assert tuned.words_error is not None
    assert tuned.words_gain > tuned.words_error > 0
    assert still is not None
    assert still.words_gain is still.words_error is None  # nothing was searched
    assert runs[1].results.queries == 0


def test_accuracies_before_the_test_are_those_of_left_out_images(runs: tuple[sz.Run, sz.Run]) -> None:
    """Of all labelled images, or of those for validation alone where the words saw the others."""
    tuned, still = runs
    for run, names in ((tuned, ["val"]), (still, ["train", "val"])):
        labels = np.concatenate([split(run, name).labels for name in names])
        x = np.concatenate([np.array(split(run, name).embeddings) for name in names])
        assert run.results.zero_shot_val == accuracy(classify(run.folder, x, tuned=False), labels)
        assert run.results.val * len(labels) == pytest.approx(round(run.results.val * len(labels)))
        # the whole classifier has seen these images, one that each was left out of has not
        assert run.results.val <= accuracy(classify(run.folder, x), labels)
        _, words = read_file(run.folder)
        head = run.prompt.head
        assert isinstance(head, Head)
        assert head.scores.shape == (len(labels),)
        assert head.distances.shape == (24,)
        assert np.mean(np.array(head.distances)) == pytest.approx(float(words["guard_centre"]), rel=1e-5)


def test_words_that_add_nothing_are_given_up(clip: sz.Clip, hard: Path, tmp_path: Path) -> None:
    """What is left is, to the bit, the run without a search."""
    config = dataclasses.replace(FOUR, shots=7)
    searched = tune(clip, hard, config, output=tmp_path / "searched")
    still = tune(clip, hard, dataclasses.replace(config, steps=0), output=tmp_path / "still")
    assert searched.results.queries > 0
    assert searched.results.head is not None
    assert not searched.results.head.words_kept
    assert searched.results.head.words_gain == 0
    assert (tmp_path / "searched" / FILE).read_bytes() == (tmp_path / "still" / FILE).read_bytes()
    assert searched.results.val == still.results.val


def test_the_words_without_a_head_are_those_of_sharpzo_alone(clip: sz.Clip, hard: Path, tmp_path: Path) -> None:
    run = tune(clip, hard, dataclasses.replace(FOUR, head="none", generations=3, steps=4), output=tmp_path / "run")
    assert run.prompt.head is None
    assert {"test_text", "head"} & run.results.to_json().keys() == set()
    x = split(run, "test").embeddings
    np.testing.assert_array_equal(run.prompt.logits(x), run.prompt.text_logits(x))
    # what was written before there were heads: no such option
    record = json.loads((run.folder / "run.json").read_text())
    del record["config"]["head"]
    (run.folder / "run.json").write_text(json.dumps(record))
    assert Run.load(run.folder).config == run.config


def test_the_images_of_the_test_play_no_part(
    runs: tuple[sz.Run, sz.Run], clip: sz.Clip, hard: Path, tmp_path: Path
) -> None:
    run, _ = runs
    copy = Path(shutil.copytree(hard, tmp_path / "photos"))
    for path, _label in run.record.images.by_split()["test"]:
        shutil.copyfile(hard / run.record.images.train[0][0], copy / path)
    other = tune(clip, copy, FOUR, output=tmp_path / "run")
    assert other.results.test != run.results.test
    assert (other.folder / FILE).read_bytes() == (run.folder / FILE).read_bytes()


@pytest.mark.parametrize("moment", [1, 10, 17])
def test_a_run_that_was_killed_goes_on_to_the_same_file(
    moment: int,
    runs: tuple[sz.Run, sz.Run],
    clip: sz.Clip,
    hard: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A kill leaves the folder as it is in the middle of the search: here a copy of it is continued."""
    run, _ = runs
    monkeypatch.setattr("sharpzo_mlx.tuning.checkpointing.CHECKPOINT_SECONDS", 0.0)
    for event in tune_steps(clip, hard, FOUR, output=tmp_path / "run"):
        if isinstance(event, TuneStep) and event.step == moment:
            shutil.copytree(tmp_path / "run", tmp_path / "killed")
    cut = Run.load(tmp_path / "killed")
    assert not cut.finished
    assert cut.prompt.head is not None  # it can be used as it is
    again = tune(clip, hard, output=cut.folder, resume=True)
    assert (again.folder / FILE).read_bytes() == (run.folder / FILE).read_bytes()
    assert dataclasses.replace(again.results, **COSTS) == dataclasses.replace(run.results, **COSTS)
    steps = read_steps(run.folder)
    assert [step.step for step in read_steps(again.folder)] == [step.step for step in steps]
    assert 17 < len(steps) < steps[0].of  # patience ended it


def test_an_end_that_was_cut_off_is_done_again(
    runs: tuple[sz.Run, sz.Run], clip: sz.Clip, hard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped when the words have been chosen, before the test images are read."""
    run, _ = runs

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sharpzo_mlx.tuning.pipeline.encode_test", stopped)
        with pytest.raises(KeyboardInterrupt):
            tune(clip, hard, FOUR, output=tmp_path / "run")
    assert not Run.load(tmp_path / "run").finished
    again = tune(clip, hard, output=tmp_path / "run", resume=True)
    assert (again.folder / FILE).read_bytes() == (run.folder / FILE).read_bytes()
    assert dataclasses.replace(again.results, **COSTS) == dataclasses.replace(run.results, **COSTS)


def test_evaluate_predict_and_the_page_use_it(runs: tuple[sz.Run, sz.Run], hard: Path, tmp_path: Path) -> None:
    run, _ = runs
    clip = sz.load(run.model_folder)
    for number, (path, label) in enumerate(run.record.images.by_split()["test"]):
        place = tmp_path / "test" / run.prompt.folders[label] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(hard / path, place)
    (result,) = sz.evaluate(run, tmp_path / "test").folders
    assert (result.tuned, result.zero_shot) == (run.results.test, run.results.zero_shot)

    image = hard / run.record.images.by_split()["test"][0][0]
    (logits,) = classify(run.folder, np.array(clip.encode_images([image])))
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
    among = classify(run.folder, np.array(clip.encode_images(paths)))[:, kept]
    labels = [names.index(path.parent.name) for path in paths]
    assert own.tuned == pytest.approx(np.mean(np.array(kept)[among.argmax(axis=1)] == labels))
    assert "words alone" in sz.write_report(run, output=tmp_path / "page.html", landscape=False).read_text()


def test_tune_says_both(
    runs: tuple[sz.Run, sz.Run], tiny_model: Path, hard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = runs
    options = ["--shots", "4", *(f"--set={name}={value}" for name, value in TINY.items())]
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
