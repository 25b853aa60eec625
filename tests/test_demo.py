"""The demonstration: pictures that repeat, a model that is what it says, and a path that ends above zero-shot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import sharpzo_mlx as sz
from sharpzo_mlx import demo
from sharpzo_mlx.cli import main
from sharpzo_mlx.clip.checkpoint import load_config, load_model
from sharpzo_mlx.clip.fingerprint import fingerprint_of
from sharpzo_mlx.demo.figures import FIGURES
from sharpzo_mlx.demo.painting import DRAWN_STYLES, SIZE, UNSEEN_STYLES, paint
from sharpzo_mlx.demo.pose import Placement, pose
from sharpzo_mlx.demo.render import DATASET, LIVING, SHIFTED, Amounts, Rendered, render
from sharpzo_mlx.demo.shapes import ROLES
from sharpzo_mlx.images.load import preprocess
from sharpzo_mlx.rng import generator_for
from sharpzo_mlx.tuning.search import TuneStep

FEW = Amounts(train=2, val=1, test=2, shifted=1)


def pixels(name: str, style: str, *path: int | str) -> np.ndarray:
    return np.asarray(paint(name, style, generator_for(3, *path)).image, np.float64)


def test_figures_are_drawn_within_reach() -> None:
    for name, figure in FIGURES.items():
        assert {part.role for part in figure} <= set(ROLES), name
        corners = np.concatenate([np.array(part.points) for part in figure])
        assert np.abs(corners).max() <= 1.15, name
        assert np.ptp(corners, axis=0).max() > 1.4, f"{name} is too small to be seen"


def test_a_pose_scales_with_the_picture() -> None:
    figure = FIGURES["boat"]
    small, large = (
        pose(figure, generator_for(0, "pose"), size=size, place=Placement(0.5, 0.5, 0.4)) for size in (128, 1280)
    )
    for (role, near), (other, far) in zip(small, large, strict=True):
        assert role == other
        np.testing.assert_allclose(np.array(near) * 10, np.array(far), atol=5.01)


@pytest.mark.parametrize("style", [*DRAWN_STYLES, "photo", *UNSEEN_STYLES])
def test_a_seed_is_a_picture(style: str) -> None:
    first, again, other = pixels("cat", style, "a"), pixels("cat", style, "a"), pixels("cat", style, "b")
    assert first.shape == (SIZE, SIZE, 3)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).mean() > 2


def test_light_falls_from_day_to_night() -> None:
    means = {
        style: np.mean([pixels(name, style, "same scene", name) for name in LIVING])
        for style in ("photo", "dusk", "night")
    }
    assert means["photo"] > 1.4 * means["dusk"] > 1.4 * 1.3 * means["night"]


def test_things_look_different() -> None:
    """A plain nearest mean on a few drawings tells the things apart far above chance (1 in 24)."""
    names = list(FIGURES)
    grey = {
        name: np.array([pixels(name, "sketch", "look", i)[::4, ::4].mean(-1).ravel() for i in range(10)])
        for name in names
    }
    means = np.stack([grey[name][:6].mean(0) for name in names])
    guesses = [
        int(np.argmin(((means - picture) ** 2).sum(1))) == label
        for label, name in enumerate(names)
        for picture in grey[name][6:]
    ]
    assert np.mean(guesses) > 0.25


def test_the_folders(tmp_path: Path) -> None:
    records = list(render(tmp_path, seed=0, amounts=FEW))
    assert [record.done for record in records] == list(range(1, records[-1].total + 1))
    per_class = {"train": 2, "val": 1, "test": 2} | dict.fromkeys(SHIFTED, 1)
    found = Counter((record.path.parent.parent.name, record.path.parent.name) for record in records)
    assert found == {(split, name): count for split, count in per_class.items() for name in LIVING}
    contents = [record.path.read_bytes() for record in records]
    assert len(set(contents)) == len(contents), "a picture stands in two places"
    twice = [record.path.read_bytes() for record in render(tmp_path / "again", seed=0, amounts=FEW)]
    assert twice == contents


def test_the_model_is_what_it_says() -> None:
    folder = demo.MODEL_FOLDER
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3_000_000
    config = load_config(folder)
    clip = sz.load(folder)
    assert clip.fingerprint == fingerprint_of(config, weights_of(folder))
    assert load_model(folder).config == config
    assert config.text.eos_token_id == clip.tokenizer.eos_id
    for name in FIGURES:
        assert len(clip.tokenizer.encode_words(name)) == 1, name
    # every byte has a token: no text is outside the vocabulary
    assert clip.tokenizer.eos_id not in clip.tokenizer.encode_words("Ω≈ç 猫 🐈 \x00 zebra!")


def weights_of(folder: Path) -> dict[str, mx.array]:
    loaded = mx.load(str(folder / "model.safetensors"))
    assert isinstance(loaded, dict)
    return loaded


def zero_shot(clip: sz.Clip, style: str, count: int = 10) -> float:
    texts = np.array(clip.encode_texts([f"a photo of a {name}." for name in LIVING]))
    pictures = [paint(name, style, generator_for(5, style, name, i)).image for name in LIVING for i in range(count)]
    batch = np.stack([preprocess(picture, clip.config.preprocessor) for picture in pictures])
    guesses = (np.array(clip.encode_pixels(batch)) @ texts.T).argmax(1)
    return float(np.mean(guesses == np.repeat(np.arange(len(LIVING)), count)))


def test_the_model_knows_drawings_and_is_unsure_at_dusk() -> None:
    clip = sz.load(demo.MODEL_FOLDER)
    chance = 1 / len(LIVING)
    assert zero_shot(clip, "drawing") > 0.75
    assert 2 * chance < zero_shot(clip, "dusk") < zero_shot(clip, "photo") - 0.1


def test_the_whole_path(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tenth of the queries: the command ends, tuned is above zero-shot, and the run is left for use."""
    monkeypatch.setattr(demo, "CONFIG", sz.TuneConfig(generations=30, steps=0).with_settings({"stage1.patience": 30}))
    monkeypatch.setattr(demo, "AMOUNTS", Amounts(train=8, val=4, test=10, shifted=2))
    output = tmp_path / "kept"
    assert main.run(["demo", "--output", str(output)]) == 0
    shown = capsys.readouterr()
    for word in ("zero-shot", "dusk", "night", "pencil", "a cat at dusk", "sharpzo-mlx evaluate"):
        assert word in shown.out
    assert "images" in shown.err
    run = sz.Run.load(output / "run")
    assert run.finished
    assert run.results.test is not None
    assert run.results.test > run.results.zero_shot + 0.03
    report = sz.evaluate(run, [output / "images" / DATASET / "test"])
    assert f"{100 * report.tuned:.1f} %" in shown.out


def test_without_an_output_no_temporary_name_is_shown_and_lines_fit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "CONFIG", sz.TuneConfig(generations=0, steps=0))
    monkeypatch.setattr(demo, "AMOUNTS", Amounts(train=2, val=2, test=2, shifted=1))
    assert main.run(["demo"]) == 0
    shown = capsys.readouterr()
    assert max(map(len, shown.out.splitlines())) <= 80
    assert "next: sharpzo-mlx convert, then sharpzo-mlx tune FOLDER\n" in shown.out
    assert any(line.startswith("images: ") for line in shown.err.splitlines())
    assert not any("/images: " in line for line in shown.err.splitlines())


def test_an_output_in_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    assert main.run(["demo", "--output", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_records_say_how_far_it_is(tmp_path: Path) -> None:
    first = next(demo.show(tmp_path, amounts=FEW))
    assert isinstance(first, Rendered)
    assert first.total == len(LIVING) * (2 + 1 + 2 + 3)


def test_what_was_cut_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C between two pictures, and between two steps of the search; but never as another demonstration."""
    monkeypatch.setattr(demo, "CONFIG", sz.TuneConfig(generations=6, steps=0).with_settings({"stage1.patience": 6}))
    monkeypatch.setattr(demo, "AMOUNTS", FEW)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main.run(["demo", "--output", str(whole)]) == 0
    words = ["demo", "--output", str(cut)]
    plain = demo.show
    for last in (5, FEW.train * len(LIVING) + 200):

        def stopped(root: Path, *, seed: int, last: int = last) -> Iterator[object]:
            for number, record in enumerate(plain(root, seed=seed)):
                yield record
                if number == last or isinstance(record, TuneStep):
                    raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(demo, "show", stopped)
            assert main.run(words) == 130
    assert not sz.Run.load(cut / "run").finished
    assert main.run([*words, "--seed", "1"]) == 2
    assert main.run(words) == 0
    run, undisturbed = sz.Run.load(cut / "run"), sz.Run.load(whole / "run")
    assert (run.results.test, run.results.queries) == (
        undisturbed.results.test,
        undisturbed.results.queries,
    )


@pytest.mark.parametrize("entry", ["images/holiday", "run/notes", "images/dusk/../../mine"])
def test_a_folder_of_anything_else_is_refused(entry: str, tmp_path: Path) -> None:
    (tmp_path / entry).mkdir(parents=True)
    assert main.run(["demo", "--output", str(tmp_path)]) == 2


def test_an_output_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("mine")
    for output in ("loop", "loop/x", "file", "file/x", "n" * 300, "new/" + "n" * 300):
        assert main.run(["demo", "--output", str(tmp_path / output)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert str(tmp_path / output) in line
    assert {path.name for path in tmp_path.iterdir()} == {"loop", "file"}
