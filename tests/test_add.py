"""Adding to a finished run: the closed form is that of all images at once, and nothing of the test split is learned."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from painted_folders import paint_class, paint_dataset

import sharpzo_mlx as sz
from sharpzo_mlx.cli.main import run as command
from sharpzo_mlx.runs.labelled import LABELLED

CONFIG = sz.TuneConfig(shots=4, views=0, steps=0)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> sz.Clip:
    return sz.load(tiny_model)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return paint_dataset(tmp_path / "photos", ("cat", "dog", "red_panda"), each=12)


@pytest.fixture
def run(model: sz.Clip, dataset: Path, tmp_path: Path) -> sz.Run:
    return sz.tune(model, dataset, CONFIG, output=tmp_path / "run", report=False)


@pytest.fixture
def more(tmp_path: Path) -> Path:
    """More images of two classes of the run, and some of a new one."""
    paint_class(tmp_path / "more" / "cat", seed=50, count=4)
    paint_class(tmp_path / "more" / "red_panda", seed=51, count=3)
    paint_class(tmp_path / "more" / "fox", seed=52, count=5)
    return tmp_path / "more"


def test_adding_equals_fitting_all_images_at_once(
    model: sz.Clip, run: sz.Run, more: Path, tmp_path: Path, dataset: Path
) -> None:
    """The closed form does not know the order in which images came."""
    added = sz.add(run, more)
    everything = tmp_path / "all"
    for split, rows in run.record.images.by_split().items():
        for path, label in rows:
            folder = everything / split / run.record.class_folders[label]
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(dataset / path, folder / Path(path).name)
    for image in sorted(more.glob("*/*.png")):
        folder = everything / "train" / image.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, folder / f"more-{image.name}")
    anew = sz.tune(model, everything, sz.TuneConfig(shots=20, views=0, steps=0), output=tmp_path / "anew", report=False)
    places = [anew.prompt.class_names.index(name) for name in added.prompt.class_names]
    x = mx.array(np.random.default_rng(0).normal(size=(40, 24)).astype(np.float32))
    x = x / mx.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(
        np.array(added.prompt.logits(x)), np.array(anew.prompt.logits(x))[:, places], rtol=1e-3, atol=1e-3
    )
    assert added.results.val == pytest.approx(anew.results.val)


def test_classes_images_and_accuracies_are_recorded(run: sz.Run, more: Path) -> None:
    tested = run.results.test
    added = sz.add(run, [more], classes=["ice bear"])
    assert added.prompt.class_names == ("cat", "dog", "red panda", "fox", "ice bear")
    assert added.prompt.folders == ("cat", "dog", "red_panda", "fox", "ice bear")
    version = added.record.version
    assert version is not None
    assert (version.number, version.parent, version.images) == (2, 1, 12)
    assert (version.classes, version.named) == (("fox",), ("ice bear",))
    rows = {row.images: row for row in version.accuracies}
    assert [row.count for row in version.accuracies] == [24, 7, 5, 12]
    assert rows["added, new classes"].before is None
    assert rows["test"].before == tested
    assert rows["test"].after == added.results.test
    assert [label for _, label in added.record.images.added or ()] == [0] * 4 + [3] * 5 + [2] * 3
    assert sz.Run.load(run.folder).record == added.record


def test_the_first_version_is_fitted_again_to_the_last_bit(run: sz.Run, more: Path) -> None:
    """What was kept is all that the head was fitted to: accuracies before are those of the tuning."""
    shutil.rmtree(run.record.dataset)
    added = sz.add(run, more)
    version = added.record.version
    assert version is not None
    before = version.accuracies[0]
    assert before.images == "labelled before"
    assert before.before == pytest.approx(run.results.val)
    assert [row.images for row in version.accuracies][-1] != "test"  # its images are gone


def test_test_images_are_left_out_and_known_ones_count_once(
    run: sz.Run, dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert run.record.images.test is not None
    again = tmp_path / "again"
    for number, (path, label) in enumerate((*run.record.images.test, *run.record.images.train)):
        folder = again / run.record.class_folders[label]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(dataset / path, folder / f"{number}.png")
    assert sz.add(run, again).record == run.record
    assert "nothing to add, so it stays as it is" in caplog.text
    assert "12 of 24 images are in the run's test split and are left out" in caplog.text
    assert "12 of 24 images are in the run already" in caplog.text
    paint_class(again / "cat", seed=70, count=1)
    shutil.copy(again / "cat" / "70-0.png", again / "dog" / "copy.png")
    added = sz.add(run, again)
    assert added.record.version is not None
    assert added.record.version.images == 1
    assert "1 of 26 images are there more than once" in caplog.text


def test_versions_can_be_switched_back_and_forth(run: sz.Run, more: Path) -> None:
    second = sz.add(run, more)
    weight = np.array(second.prompt.head.weight)  # type: ignore[union-attr]
    first = sz.go_back(run.folder)
    assert first.results == run.results
    assert first.prompt.class_names == run.prompt.class_names
    np.testing.assert_array_equal(first.prompt.head.weight, run.prompt.head.weight)  # type: ignore[union-attr]
    third = sz.add(run.folder, classes="ice bear")
    assert third.record.version is not None
    assert (third.record.version.number, third.record.version.parent) == (3, 1)
    again = sz.go_back(run.folder, 2)
    np.testing.assert_array_equal(again.prompt.head.weight, weight)  # type: ignore[union-attr]
    assert sz.go_back(run.folder, 3).prompt.class_names[-1] == "ice bear"
    with pytest.raises(sz.UserError, match="has no version 7; name one of these: 1, 2, 3"):
        sz.go_back(run.folder, 7)
    sz.go_back(run.folder, 1)
    with pytest.raises(sz.UserError, match="none to go back to"):
        sz.go_back(run.folder)
    copy = (run.folder / "prompt.safetensors").read_bytes()
    assert copy == (run.folder / "history" / "1" / "prompt.safetensors").read_bytes()


def test_a_run_without_kept_features_reads_its_images_again(run: sz.Run, more: Path, dataset: Path) -> None:
    straight = sz.add(run, more)
    sz.go_back(run.folder)
    (run.folder / LABELLED).unlink()
    again = sz.add(run.folder, more)
    np.testing.assert_array_equal(again.prompt.head.weight, straight.prompt.head.weight)  # type: ignore[union-attr]
    sz.go_back(run.folder, 1)
    (run.folder / LABELLED).unlink()
    gone = dataset / run.record.images.train[0][0]
    gone.unlink()
    with pytest.raises(sz.UserError, match=r"gone, and .* has no labelled\.safetensors"):
        sz.add(run.folder, more)


def test_added_images_are_known_to_later_additions_and_to_evaluate(
    run: sz.Run, more: Path, caplog: pytest.LogCaptureFixture
) -> None:
    added = sz.add(run, more)
    assert sz.add(run.folder, more, classes=["Fox"]).record == added.record
    assert "has this class already, 'fox'" in caplog.text
    report = sz.evaluate(run.folder, more)
    assert report.folders[0].seen == 12
    entry = json.loads((run.folder / "evaluations.json").read_text())[0]
    assert entry["version"] == 2
    sz.go_back(run.folder)
    page = sz.write_report(run.folder).read_text()
    assert "(version 2)" in page


def test_views_are_made_of_new_images_too_while_they_pay(model: sz.Clip, dataset: Path, tmp_path: Path) -> None:
    config = sz.TuneConfig(shots=2, steps=0)
    run = sz.tune(model, dataset, config, output=tmp_path / "few", report=False)
    paint_class(tmp_path / "few-more" / "fox", seed=80, count=3)
    sz.add(run, tmp_path / "few-more")
    kept = mx.load(str(run.folder / "history" / "2" / LABELLED))
    assert isinstance(kept, dict)
    assert kept["averages"].shape == kept["embeddings"].shape
    paint_class(tmp_path / "many" / "fox", seed=81, count=40)
    sz.add(run.folder, tmp_path / "many")
    kept = mx.load(str(run.folder / "history" / "3" / LABELLED))
    assert isinstance(kept, dict)
    assert "averages" not in kept


def test_words_of_a_run_without_head(model: sz.Clip, dataset: Path, more: Path, tmp_path: Path) -> None:
    """Names can be added; images are refused with the remedy."""
    config = sz.TuneConfig(shots=4, head="none", generations=2, steps=1)
    run = sz.tune(model, dataset, config, output=tmp_path / "words", report=False)
    with pytest.raises(sz.UserError, match="tuned with --head none"):
        sz.add(run, more)
    added = sz.add(run, classes=["fox"])
    assert added.prompt.head is None
    np.testing.assert_array_equal(added.prompt.class_features[:3], run.prompt.class_features)
    assert added.prompt.class_features.shape == (4, 24)
    assert added.results.test is not None
    assert not np.allclose(added.prompt.class_features[3], added.prompt.zero_shot_features[3]) or not np.any(
        np.array(run.prompt.w)
    )


def test_tuned_words_give_new_names_the_features_of_their_context(
    model: sz.Clip, dataset: Path, tmp_path: Path
) -> None:
    """The new row is what a run with that class and the same context has."""
    from sharpzo_mlx.prompts.context_features import context_features

    config = sz.TuneConfig(shots=4, head="none", generations=3, steps=1)
    run = sz.tune(model, dataset, config, output=tmp_path / "words", report=False)
    prompt = run.prompt
    found = context_features(model, prompt.template, prompt.context, prompt.class_names)
    np.testing.assert_allclose(found, prompt.class_features, atol=2e-5)


def test_the_command_shows_what_changed(run: sz.Run, more: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["add", str(run.folder), str(more), "--class", "ice_bear"]) == 0
    said = capsys.readouterr().out
    assert "version 2: 12 images; new: fox; by name: ice bear" in said
    assert "added, known classes" in said
    assert f"undo: sharpzo-mlx add {run.folder} --back" in said
    assert command(["add", str(run.folder), "--list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line[:3] for line in listed[1:]] == ["  1", "* 2"]
    assert all(len(line) <= 80 for line in listed)
    assert command(["add", str(run.folder), "--back"]) == 0
    assert "version 1 is the present one (as tuned)" in capsys.readouterr().out
    assert command(["add", str(run.folder), "--list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["present"], [one["number"] for one in found["versions"]]) == (1, [1, 2])
